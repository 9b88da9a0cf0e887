"""Turns by multiples of 90 degrees: exact, and free where objects have no upright."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.errors import InputError
from monai_ext.transforms.drawn_transform import DrawnTransform, Params


class RandRightAngleTurnd(DrawnTransform):
    """Turn by 0, 90, 180 or 270 degrees, each equally likely; by 0 or 180 where the two edges differ.

    With `RandMirrord` of one axis, all eight symmetries of the square come out.

    Args:
        keys: images and labels `[C, *spatial]` of any type, turned alike.
        axes: the two spatial axes of the plane, 0 being the first after the channel, -1 the last.
        prob: chance that a turn is drawn (it may be by 0).
        allow_missing_keys: skip keys that a sample lacks.

    Raises:
        InputError: the axes are not two.
    """

    def __init__(
        self,
        keys: str | Sequence[str] = "image",
        axes: Sequence[int] = (-2, -1),
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        if len(axes) != 2 or axes[0] == axes[1]:
            raise InputError(f"RandRightAngleTurnd: axes must be two, found {list(axes)}. Cure: [-2, -1]")
        self.axes = (int(axes[0]), int(axes[1]))

    def draw(self, image: torch.Tensor) -> Params:
        quarters = int(self.R.randint(4))
        first, second = (axis + 1 if axis >= 0 else axis for axis in self.axes)
        if image.shape[first] != image.shape[second]:
            quarters -= quarters % 2  # 0, 1 stay and 2, 3 become half a turn: both equally likely
        return {"quarters": quarters} if quarters else {}

    def apply(self, image: torch.Tensor, params: Params) -> torch.Tensor:
        first, second = (axis + 1 if axis >= 0 else axis for axis in self.axes)
        return torch.rot90(image, params["quarters"], (first, second)).contiguous()
