"""Random amounts of stain in pictures of stained tissue."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.errors import InputError
from monai_ext.transforms.drawn_transform import DrawnTransform, Params, warn_does_nothing

# absorbance of haematoxylin, eosin and DAB in red, green and blue: Ruifrok and Johnston, "Quantification of
# histochemical staining by color deconvolution", 2001
STAINS = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776))
DARKEST = 1 / 255


class RandStainJitterd(DrawnTransform):
    """Scale and shift the amounts of haematoxylin, eosin and DAB, each by its own random numbers.

    The picture is taken apart by Beer and Lambert's law: absorbance -log(value) is a sum of stains. An amount a becomes
    `factor * a + shift`, factors uniform in [1 - x, 1 + x], shifts in [-x, x] (Tellez et al., "Whole-slide mitosis
    detection in H&E breast histology using PHH3 as a reference to train distilled stain-invariant convolutional
    networks", 2018). Grey pictures, one channel or three equal ones, stay as they are: they show no stain.

    Args:
        keys: images `[3, *spatial]` or `[1, *spatial]` float32 of 0 (black) to 1 (white); results are clamped to this.
        prob: chance per sample.
        strength: x, in [0, 1].
        allow_missing_keys: skip keys that a sample lacks.

    Raises:
        InputError: an argument is out of bounds.
    """

    def __init__(
        self,
        keys: str | Sequence[str] = "image",
        prob: float = 0.3,
        strength: float = 0.1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        if not 0 <= strength <= 1:
            raise InputError(f"RandStainJitterd: strength must be in [0, 1], found {strength}. Cure: 0.1")
        self.strength = float(strength)
        if strength == 0:
            warn_does_nothing("RandStainJitterd", "strength is 0", "Set strength to e.g. 0.1")
        stains = torch.tensor(STAINS, dtype=torch.float64)
        self.stains = stains / stains.norm(dim=1, keepdim=True)

    def draw(self, image: torch.Tensor) -> Params:
        factors = [1 + self.strength * float(self.R.uniform(-1, 1)) for _ in STAINS]
        return {"factors": factors, "shifts": [self.strength * float(self.R.uniform(-1, 1)) for _ in STAINS]}

    def apply(self, image: torch.Tensor, params: Params) -> torch.Tensor:
        if image.shape[0] != 3 or (torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])):
            return image
        factors, shifts = (torch.tensor(params[name], dtype=torch.float64) for name in ("factors", "shifts"))
        # colours to stains, changed amounts, and back to colours is one matrix and one offset of absorbances
        matrix = torch.linalg.solve(self.stains, factors[:, None] * self.stains).T.to(image)
        offset = (shifts @ self.stains)[:, None].to(image)
        transmitted = image.reshape(3, -1).clamp(min=DARKEST).log_()
        return torch.addmm(-offset, matrix, transmitted).exp_().clamp_(0, 1).reshape(image.shape)
