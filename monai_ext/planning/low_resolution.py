"""The 3D low resolution configuration, and with it whether a full resolution patch sees too little of a case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from monai_ext.planning.patch_size import MemoryTarget, PatchChoice, choose_patch

LEAST_SEEN = 0.25
STEP = 1.03
LEAST_GAIN = 2.0


@dataclass(frozen=True)
class LowResolution:
    """Spacing in mm, median shape and patch; axes in stored order."""

    spacing: tuple[float, ...]
    median_shape: tuple[int, ...]
    patch: PatchChoice


def plan_low_resolution(
    patch_size: Sequence[int], spacing: Sequence[float], shape: Sequence[float], memory: MemoryTarget
) -> LowResolution | None:
    """Coarsen until a patch sees a quarter of a median case (nnU-Net's rule).

    Args:
        patch_size: patch at full resolution, stored order.
        spacing: target spacing in mm, stored order.
        shape: median shape at target spacing, stored order.
        memory: as for the full resolution.

    Returns:
        None if the full resolution patch sees enough, or if a median case would not even lose half of its voxels.
    """
    low: LowResolution | None = None
    patch, coarse, voxels = tuple(patch_size), tuple(spacing), math.prod(shape)
    while math.prod(patch) / voxels < LEAST_SEEN:
        coarse = coarsened(coarse)
        exact = [s / t * n for s, t, n in zip(spacing, coarse, shape, strict=True)]
        voxels = math.prod(exact)
        rounded = tuple(max(1, round(n)) for n in exact)
        low = LowResolution(coarse, rounded, choose_patch(coarse, rounded, memory))
        patch = low.patch.topology.patch_size
    return low if low is not None and math.prod(shape) / voxels >= LEAST_GAIN else None


def coarsened(spacing: Sequence[float]) -> tuple[float, ...]:
    """One step coarser: 3 % along axes finer than half of the coarsest, if there are any, else along all."""
    fine = [max(spacing) / s > 2 for s in spacing]
    return tuple(s * STEP if f or not any(fine) else s for s, f in zip(spacing, fine, strict=True))
