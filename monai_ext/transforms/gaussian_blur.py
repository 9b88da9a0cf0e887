"""Gaussian blur, axis by axis, of the channels drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.ops.intensity_chain import Step
from monai_ext.transforms.drawn_transform import (
    IntensityTransform,
    Params,
    check_probability,
    check_range,
    rows_of_channels,
    warn_does_nothing,
)


class RandBlurd(IntensityTransform):
    """Blur with a Gaussian; sigma uniform in `sigma`.

    Args:
        keys: images `[C, *spatial]`.
        prob: chance per sample.
        sigma: range in voxels.
        channel_prob: chance of each channel once the sample is drawn.
        per_axis: another sigma for every channel and axis (nnU-Net v2); otherwise one for the whole sample.
        allow_missing_keys: skip keys that a sample lacks.

    Raises:
        InputError: a chance or `sigma` is out of bounds.
    """

    def __init__(
        self,
        keys: str | Sequence[str] = "image",
        prob: float = 0.2,
        sigma: Sequence[float] = (0.5, 1.0),
        channel_prob: float = 1.0,
        per_axis: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.sigma = check_range("RandBlurd", "sigma", sigma)
        self.channel_prob = check_probability("RandBlurd", "channel_prob", channel_prob)
        self.per_axis = per_axis
        if self.sigma[1] == 0:
            warn_does_nothing("RandBlurd", "sigma is 0", "Set sigma to e.g. [0.5, 1]")
        if self.channel_prob == 0:
            warn_does_nothing("RandBlurd", "channel_prob is 0", "Set a channel_prob above 0")

    def draw(self, image: torch.Tensor) -> Params:
        channels = [c for c in range(image.shape[0]) if self.R.random_sample() < self.channel_prob]
        axes = image.ndim - 1
        if self.per_axis:
            sigmas = [[float(self.R.uniform(*self.sigma)) for _ in range(axes)] for _ in channels]
        else:
            sigmas = [[float(self.R.uniform(*self.sigma))] * axes] * len(channels)
        return {"channels": channels, "sigmas": sigmas} if channels else {}

    def step(self, image: torch.Tensor, params: Params) -> Step:
        return {"name": "blur", "sigma": rows_of_channels(params, "sigmas", image, 0.0)}
