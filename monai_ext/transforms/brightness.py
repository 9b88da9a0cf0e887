"""Multiplicative brightness."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.ops.intensity_chain import Step
from monai_ext.transforms.drawn_transform import IntensityTransform, Params, check_range, warn_does_nothing
from monai_ext.transforms.factor_law import check_law, draw_factors


class RandBrightnessd(IntensityTransform):
    """Multiply the image by a random factor.

    Args:
        keys: images `[C, *spatial]`.
        prob: chance per sample.
        factor: range of the factor.
        law: `coin_flip` (below or above 1 with equal chance, nnU-Net v2) or `uniform`.
        per_channel: another factor for every channel.
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
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.factor = check_range("RandBrightnessd", "factor", factor)
        self.law = check_law("RandBrightnessd", law)
        self.per_channel = per_channel
        if self.factor == (1.0, 1.0):
            warn_does_nothing("RandBrightnessd", "factor is 1", "Set factor to e.g. [0.75, 1.25]")

    def draw(self, image: torch.Tensor) -> Params:
        return {"factors": draw_factors(self.R, *self.factor, self.law, image.shape[0], self.per_channel)}

    def step(self, image: torch.Tensor, params: Params) -> Step:
        return {"name": "brightness", "factor": params["factors"]}
