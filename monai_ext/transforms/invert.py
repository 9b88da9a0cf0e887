"""Negative of an image: dark objects on light ground become light objects on dark ground."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.transforms.drawn_transform import DrawnTransform, Params


class RandInvertd(DrawnTransform):
    """Turn every value v into `top - v`.

    Args:
        keys: images `[C, *spatial]` floating point.
        prob: chance per sample.
        top: what 0 becomes; 1 for images of 0 to 1.
        allow_missing_keys: skip keys that a sample lacks.
    """

    def __init__(
        self, keys: str | Sequence[str] = "image", prob: float = 0.1, top: float = 1.0, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.top = float(top)

    def draw(self, image: torch.Tensor) -> Params:
        return {"top": self.top}

    def apply(self, image: torch.Tensor, params: Params) -> torch.Tensor:
        return params["top"] - image
