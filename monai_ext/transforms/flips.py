"""Mirroring of single axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.errors import InputError
from monai_ext.transforms.drawn_transform import DrawnTransform, Params, check_probability, warn_does_nothing


class RandMirrord(DrawnTransform):
    """Mirror each of `axes` with its own chance; all axes drawn are flipped in one copy.

    Args:
        keys: images and labels `[C, *spatial]`, mirrored alike.
        axes: spatial axes that may be mirrored, 0 being the first after the channel, -1 the last.
        prob: chance per axis, one for all or one for each of `axes`.
        allow_missing_keys: skip keys that a sample lacks.

    Raises:
        InputError: a chance is outside [0, 1], or their number differs from that of the axes.
    """

    def __init__(
        self,
        keys: str | Sequence[str] = ("image", "label"),
        axes: Sequence[int] = (0, 1, 2),
        prob: float | Sequence[float] = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, 1.0, allow_missing_keys)
        self.axes = tuple(int(axis) for axis in axes)
        self.probs = tuple(prob) if isinstance(prob, Sequence) else (prob,) * len(self.axes)
        if len(self.probs) != len(self.axes):
            raise InputError(
                f"RandMirrord: {len(self.probs)} values of prob for {len(self.axes)} axes. Cure: give one per axis"
            )
        for value in self.probs:
            check_probability("RandMirrord", "prob", value)
        if not any(self.probs):
            warn_does_nothing("RandMirrord", "no axis has a chance above 0", "Name axes and set a prob above 0")

    def draw(self, image: torch.Tensor) -> Params:
        drawn = [axis for axis, prob in zip(self.axes, self.probs, strict=True) if self.R.random_sample() < prob]
        return {"axes": drawn} if drawn else {}

    def apply(self, image: torch.Tensor, params: Params) -> torch.Tensor:
        return torch.flip(image, [axis + 1 if axis >= 0 else axis for axis in params["axes"]])
