"""Additive Gaussian noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from monai_ext.ops.intensity_chain import Step
from monai_ext.transforms.drawn_transform import IntensityTransform, Params, check_range, warn_does_nothing


class RandNoised(IntensityTransform):
    """Add Gaussian noise; one standard deviation for all channels, drawn uniformly.

    Args:
        keys: images `[C, *spatial]`.
        prob: chance per sample.
        std: range of the standard deviation, in units of the (normalized) image.
        allow_missing_keys: skip keys that a sample lacks.

    Raises:
        InputError: `prob` or `std` is out of bounds.
    """

    def __init__(
        self,
        keys: str | Sequence[str] = "image",
        prob: float = 0.1,
        std: Sequence[float] = (0.0, 0.1),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.std = check_range("RandNoised", "std", std)
        if self.std[1] == 0:
            warn_does_nothing("RandNoised", "std is 0", "Set std to e.g. [0, 0.1]")

    def draw(self, image: torch.Tensor) -> Params:
        return {"std": float(self.R.uniform(*self.std)), "seed": int(self.R.randint(2**32, dtype=np.uint32))}

    def step(self, image: torch.Tensor, params: Params) -> Step:
        return {"name": "noise", "std": params["std"], "seed": params["seed"]}
