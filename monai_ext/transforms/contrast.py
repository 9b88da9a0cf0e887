"""Contrast: intensities stretched and clamped to the range they had."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.errors import InputError
from monai_ext.ops.intensity_chain import Step
from monai_ext.transforms.drawn_transform import IntensityTransform, Params, check_range, warn_does_nothing
from monai_ext.transforms.factor_law import check_law, draw_factors


class RandContrastd(IntensityTransform):
    """Stretch or flatten the intensities.

    Args:
        keys: images `[C, *spatial]`.
        prob: chance per sample.
        factor: range of the factor.
        law: `coin_flip` (below or above 1 with equal chance, nnU-Net v2) or `uniform`.
        per_channel: another factor for every channel.
        about: `mean`: about the mean of each channel and clamped to its old range (nnU-Net v2); `zero`: a plain
            product clamped to the old range of all channels together, which for images around 0 also cuts the tails.
        allow_missing_keys: skip keys that a sample lacks.

    Raises:
        InputError: an argument is out of bounds.
    """

    def __init__(
        self,
        keys: str | Sequence[str] = "image",
        prob: float = 0.15,
        factor: Sequence[float] = (0.75, 1.25),
        law: str = "coin_flip",
        per_channel: bool = True,
        about: str = "mean",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        if about not in ("mean", "zero"):
            raise InputError(f"RandContrastd: about must be 'mean' or 'zero', found {about!r}. Cure: choose one")
        self.factor = check_range("RandContrastd", "factor", factor)
        self.law = check_law("RandContrastd", law)
        self.per_channel = per_channel
        self.about = about
        if self.factor == (1.0, 1.0):
            warn_does_nothing("RandContrastd", "factor is 1", "Set factor to e.g. [0.75, 1.25]")

    def draw(self, image: torch.Tensor) -> Params:
        factors = draw_factors(self.R, *self.factor, self.law, image.shape[0], self.per_channel)
        return {"factors": factors, "about": self.about}

    def step(self, image: torch.Tensor, params: Params) -> Step:
        return {"name": "contrast", "factor": params["factors"], "about": params["about"]}
