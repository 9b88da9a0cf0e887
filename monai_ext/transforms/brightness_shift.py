"""Additive brightness."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from monai_ext.transforms.drawn_transform import DrawnTransform, Params, check_range, warn_does_nothing


class RandBrightnessShiftd(DrawnTransform):
    """Add one random number to all pixels, then clip; samples that are not drawn are not clipped either.

    Args:
        keys: images `[C, *spatial]` floating point.
        prob: chance per sample.
        shift: range of the number, uniform, in units of the image.
        limits: values below the first and above the second are set to them; None for no clip.
        allow_missing_keys: skip keys that a sample lacks.

    Raises:
        InputError: an argument is out of bounds.
    """

    def __init__(
        self,
        keys: str | Sequence[str] = "image",
        prob: float = 1.0,
        shift: Sequence[float] = (-0.2, 0.2),
        limits: Sequence[float] | None = (-1.0, 1.0),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.shift = check_range("RandBrightnessShiftd", "shift", shift, -math.inf)
        self.limits = None if limits is None else check_range("RandBrightnessShiftd", "limits", limits, -math.inf)
        if self.shift == (0.0, 0.0) and self.limits is None:
            warn_does_nothing("RandBrightnessShiftd", "shift is 0", "Set shift to e.g. [-0.2, 0.2]")

    def draw(self, image: torch.Tensor) -> Params:
        limits = None if self.limits is None else list(self.limits)
        return {"shift": float(self.R.uniform(*self.shift)), "limits": limits}

    def apply(self, image: torch.Tensor, params: Params) -> torch.Tensor:
        shifted = image + params["shift"]
        return shifted if params["limits"] is None else shifted.clamp_(*params["limits"])
