"""A random box of the slice, stretched to the whole slice."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.errors import InputError
from monai_ext.transforms.drawn_transform import Params, warn_does_nothing
from monai_ext.transforms.image_label import ImageLabelTransform, check_binary


def crop_resize(image: torch.Tensor, box: Sequence[float]) -> torch.Tensor:
    """Bilinear interpolation of a box at as many pixels as the image has.

    The corner pixels of the result lie on the corners of the box (TensorFlow's `crop_and_resize`): row i of H is taken
    from `top (H - 1) + i (bottom - top)`, columns likewise.

    Args:
        image: `[C, H, W]` floating point.
        box: top, left, bottom, right in [0, 1], 0 the centre of the first and 1 that of the last pixel.

    Returns:
        `[C, H, W]` of the same type.
    """
    top, left, bottom, right = box
    return _stretch(_stretch(image, -1, left, right), -2, top, bottom)


def _stretch(image: torch.Tensor, axis: int, start: float, stop: float) -> torch.Tensor:
    """Linear interpolation of the part `start` to `stop` (in [0, 1]) of one axis at as many positions as before."""
    size = image.shape[axis]
    # float64 on the CPU: a slice has few positions, and not every accelerator has float64
    positions = (start * (size - 1) + torch.arange(size, dtype=torch.float64) * (stop - start)).clamp_(0, size - 1)
    low = positions.floor().long()
    weight = (positions - low).to(image)
    near = image.index_select(axis, low.to(image.device))
    far = image.index_select(axis, (low + 1).clamp_(max=size - 1).to(image.device))
    return near.lerp_(far, weight if axis == -1 else weight[:, None])


class RandCropResized(ImageLabelTransform):
    """Zoom into a random box; height and width are drawn apart, so the aspect ratio is not kept.

    Left and top are uniform in [0, margin], right and bottom in [1 - margin, 1], all independent: the zoom is between
    1 and 1 / (1 - 2 margin). Images and labels are interpolated linearly; a label pixel is 1 where the share of class 1
    is at least 0.5. (Where it is exactly 0.5, thresholding a one-hot label would mark both classes; here class 1 wins.)

    Args:
        keys: images `[C, H, W]` floating point.
        label_keys: labels `[C, H, W]` of 0 and 1.
        prob: chance per sample.
        margin: largest part of the slice cut off at each side, in [0, 0.5).
        allow_missing_keys: skip keys that a sample lacks.

    Raises:
        InputError: an argument is out of bounds, or (when called) a shape or a label value does not fit.
    """

    def __init__(
        self,
        keys: str | Sequence[str] = "image",
        label_keys: str | Sequence[str] = "label",
        prob: float = 1.0,
        margin: float = 0.3,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, label_keys, prob, allow_missing_keys)
        if not 0 <= margin < 0.5:
            raise InputError(f"RandCropResized: margin must be in [0, 0.5), found {margin}. Cure: e.g. 0.3")
        self.margin = float(margin)
        if self.margin == 0:
            warn_does_nothing("RandCropResized", "margin is 0", "Set margin to e.g. 0.3")

    def draw(self, image: torch.Tensor) -> Params:
        left, top, right, bottom = (float(x) for x in self.R.uniform(0, self.margin, size=4))
        return {"box": [top, left, 1 - bottom, 1 - right]}

    def apply(self, image: torch.Tensor, params: Params) -> torch.Tensor:
        return crop_resize(image, params["box"])

    def apply_label(self, label: torch.Tensor, params: Params) -> torch.Tensor:
        share = crop_resize(check_binary("RandCropResized", label).float(), params["box"])
        return (share >= 0.5).to(label.dtype)
