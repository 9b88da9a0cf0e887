"""Random brightness, contrast and saturation of pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.errors import InputError
from monai_ext.transforms.drawn_transform import DrawnTransform, Params, warn_does_nothing

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class RandColourJitterd(DrawnTransform):
    """Brightness, contrast and saturation by random factors, as in Krizhevsky et al. (2012) and Howard (2013).

    Brightness multiplies all values by b. Contrast moves every value from the image's mean grey by the factor c.
    Saturation moves every colour from its own grey by the factor s; images that are not of 3 channels have none, and
    each of their channels has a mean of its own. Factors are uniform in [1 - x, 1 + x]. Grey is luma (ITU-R BT.601).

    The three commute, so all of it is one matrix over the channels and one offset, rounded and clamped once.

    Args:
        keys: images `[C, *spatial]`, uint8 (clamped to 0 to 255) or floating point (not clamped; 0 is black).
        brightness, contrast, saturation: x, in [0, 1].
        prob: chance per sample.
        allow_missing_keys: skip keys that a sample lacks.

    Raises:
        InputError: an argument is out of bounds.
    """

    def __init__(
        self,
        keys: str | Sequence[str] = "image",
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        prob: float = 0.8,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
            if not 0 <= value <= 1:
                raise InputError(f"RandColourJitterd: {name} must be in [0, 1], found {value}. Cure: e.g. 0.4")
        self.strength = (float(brightness), float(contrast), float(saturation))
        if not any(self.strength):
            warn_does_nothing("RandColourJitterd", "all factors are 1", "Set brightness to e.g. 0.4")

    def draw(self, image: torch.Tensor) -> Params:
        factors = [1 + x * float(self.R.uniform(-1, 1)) for x in self.strength]
        return dict(zip(("brightness", "contrast", "saturation"), factors, strict=True))

    def apply(self, image: torch.Tensor, params: Params) -> torch.Tensor:
        return jitter(image, params["brightness"], params["contrast"], params["saturation"])


def jitter(image: torch.Tensor, brightness: float, contrast: float, saturation: float) -> torch.Tensor:
    """Apply the three factors to `image` (`[C, *spatial]`); a new tensor of the same type. See `RandColourJitterd`."""
    channels = image.shape[0]
    values = image.reshape(channels, -1)
    values = values.float() if not image.is_floating_point() else values
    mean = values.mean(1, keepdim=True)
    gain = brightness * contrast
    if channels == 3:
        luma = values.new_tensor(LUMA)
        matrix = gain * (saturation * torch.eye(3).to(values) + (1 - saturation) * luma.expand(3, 3))
        offset = (brightness * (1 - contrast) * (luma @ mean)).expand(3, 1)
        out = torch.addmm(offset, matrix, values)
    else:
        out = values * gain + brightness * (1 - contrast) * mean
    if not image.is_floating_point():
        out = out.round_().clamp_(0, 255)
    return out.to(image.dtype).reshape(image.shape)
