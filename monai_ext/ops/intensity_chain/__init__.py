"""Intensity augmentations of a batch as one op: every sample has its own chain of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from monai_ext.ops.forms import implementation
from monai_ext.ops.intensity_chain.step_check import check_step

Step = Mapping[str, Any]


def intensity_chain(images: torch.Tensor, chains: Sequence[Sequence[Step]]) -> torch.Tensor:
    """Run the steps of `chains[b]` one after the other on sample b.

    A step is a mapping that JSON can hold; lists have one entry per channel (C), inner lists one per spatial axis:

    - `{"name": "noise", "std": 0.1, "seed": 5}` adds independent N(0, std^2) noise. It is a function of `seed` (in
      [0, 2^64)), the channel's number and the voxel's number in the channel only: Philox 4x32-10 (Salmon, Moraes, Dror
      and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and Box-Muller, the same on every device.
    - `{"name": "blur", "sigma": [[0.5, 0.5, 1.0]]}` is a Gaussian of radius ceil(3 sigma) voxels, edge voxels repeated;
      0 leaves an axis alone.
    - `{"name": "brightness", "factor": [1.1]}` multiplies.
    - `{"name": "contrast", "factor": [1.1], "about": "mean"}` is `(x - mean) * factor + mean` clamped to the range that
      the channel had; about `zero`, `x * factor` clamped to the range that all channels of the sample had together.
    - `{"name": "low_resolution", "zoom": [[0.5, 0.5, 1.0]]}` samples `max(1, round(zoom * n))` voxels per axis
      (nearest) and interpolates them linearly back; zoom in (0, 1].
    - `{"name": "gamma", "exponent": [0.8], "invert": False, "keep_stats": True}` maps the channel's range to 0 .. 1
      (1 .. 0 with `invert`), raises it to the exponent and maps it back to the old range, or with `keep_stats` to the
      old mean and standard deviation.

    A NaN makes all of its channel NaN as soon as a step needs the range or the mean (of all channels for contrast
    about zero).

    Args:
        images: `[B, C, *S]` floating point, S of 2 or 3 axes; computed in float32 (float64 if it is float64).
        chains: B sequences of steps, which may be empty.

    Returns:
        `[B, C, *S]`, new contiguous memory, type of `images`; not differentiable.

    Raises:
        ValueError: wrong shapes or types, an unknown step, or parameters that do not fit.
    """
    if images.ndim not in (4, 5) or not images.is_floating_point():
        found = f"{list(images.shape)} {images.dtype}"
        raise ValueError(f"images: expected floating point [B, C, H, W] or [B, C, D, H, W], found {found}")
    if len(chains) != images.shape[0]:
        raise ValueError(f"chains: expected one per sample, {images.shape[0]}, found {len(chains)}")
    for chain in chains:
        for step in chain:
            check_step(step, images.shape[1], images.ndim - 2)
    plain = images.detach()
    if plain.dtype not in (torch.float32, torch.float64):
        plain = plain.float()
    if plain.numel() == 0:
        return torch.empty_like(images, memory_format=torch.contiguous_format)
    out: torch.Tensor = implementation("intensity_chain", plain.device).intensity_chain(plain, chains)
    return out.to(images.dtype)


intensity_chain.not_compiled = True  # type: ignore[attr-defined]
