"""Gamma curves on the image or its negative."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.ops.intensity_chain import Step
from monai_ext.transforms.drawn_transform import IntensityTransform, Params, check_range, warn_does_nothing
from monai_ext.transforms.factor_law import check_law, draw_factors


class RandGammad(IntensityTransform):
    """Apply a random gamma curve to every channel.

    Args:
        keys: images `[C, *spatial]`.
        prob: chance per sample.
        gamma: range of the exponent.
        law: `coin_flip` (below or above 1 with equal chance, nnU-Net v2) or `uniform`.
        invert: work on the negative of the image.
        keep_stats: restore mean and standard deviation of each channel instead of its range.
        per_channel: another exponent for every channel.
        allow_missing_keys: skip keys that a sample lacks.

    Raises:
        InputError: an argument is out of bounds.
    """

    def __init__(
        self,
        keys: str | Sequence[str] = "image",
        prob: float = 0.3,
        gamma: Sequence[float] = (0.7, 1.5),
        law: str = "coin_flip",
        invert: bool = False,
        keep_stats: bool = True,
        per_channel: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.gamma = check_range("RandGammad", "gamma", gamma, lowest=1e-3)
        self.law = check_law("RandGammad", law)
        self.invert = invert
        self.keep_stats = keep_stats
        self.per_channel = per_channel
        if self.gamma == (1.0, 1.0):
            warn_does_nothing("RandGammad", "gamma is 1", "Set gamma to e.g. [0.7, 1.5]")

    def draw(self, image: torch.Tensor) -> Params:
        gammas = draw_factors(self.R, *self.gamma, self.law, image.shape[0], self.per_channel)
        return {"gammas": gammas, "invert": self.invert, "keep_stats": self.keep_stats}

    def step(self, image: torch.Tensor, params: Params) -> Step:
        curve = {"invert": params["invert"], "keep_stats": params["keep_stats"]}
        return {"name": "gamma", "exponent": params["gammas"], **curve}
