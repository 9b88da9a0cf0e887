"""Low resolution: sampled coarsely by the nearest voxel and interpolated back linearly."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.errors import InputError
from monai_ext.ops.intensity_chain import Step
from monai_ext.transforms.drawn_transform import (
    IntensityTransform,
    Params,
    check_probability,
    check_range,
    rows_of_channels,
    warn_does_nothing,
)


class RandLowResolutiond(IntensityTransform):
    """Simulate a coarser acquisition; one zoom per channel, the same on all axes.

    Args:
        keys: images `[C, *spatial]`.
        prob: chance per sample.
        zoom: range of the zoom, in (0, 1].
        channel_prob: chance of each channel once the sample is drawn.
        skip_axis_0: leave the first axis alone (patches that are augmented slice by slice).
        allow_missing_keys: skip keys that a sample lacks.

    Raises:
        InputError: an argument is out of bounds.
    """

    def __init__(
        self,
        keys: str | Sequence[str] = "image",
        prob: float = 0.25,
        zoom: Sequence[float] = (0.5, 1.0),
        channel_prob: float = 0.5,
        skip_axis_0: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.zoom = check_range("RandLowResolutiond", "zoom", zoom)
        if self.zoom[0] == 0 or self.zoom[1] > 1:
            raise InputError(f"RandLowResolutiond: zoom must be in (0, 1], found {list(zoom)}. Cure: e.g. [0.5, 1]")
        self.channel_prob = check_probability("RandLowResolutiond", "channel_prob", channel_prob)
        self.skip_axis_0 = skip_axis_0
        if self.zoom[0] == 1:
            warn_does_nothing("RandLowResolutiond", "zoom is 1", "Set zoom to e.g. [0.5, 1]")
        if self.channel_prob == 0:
            warn_does_nothing("RandLowResolutiond", "channel_prob is 0", "Set a channel_prob above 0")

    def draw(self, image: torch.Tensor) -> Params:
        channels = [c for c in range(image.shape[0]) if self.R.random_sample() < self.channel_prob]
        zooms = [[float(self.R.uniform(*self.zoom))] * (image.ndim - 1) for _ in channels]
        if self.skip_axis_0:
            zooms = [[1.0, *zoom[1:]] for zoom in zooms]
        return {"channels": channels, "zooms": zooms} if channels else {}

    def step(self, image: torch.Tensor, params: Params) -> Step:
        return {"name": "low_resolution", "zoom": rows_of_channels(params, "zooms", image, 1.0)}
