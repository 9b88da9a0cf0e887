"""Rotation and scaling of a patch: drawn before the patch is read, so that only the voxels needed are read.

A patch voxel at offset `o` from the patch centre takes its value from `centre + A @ o`; `A` is the rotation times the
scale (above 1 the patch covers more of the volume and objects shrink).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from monai_ext.errors import InputError
from monai_ext.transforms.drawn_transform import check_probability, check_range, warn_does_nothing

ANISOTROPY = 3.0  # nnU-Net v2: beyond this ratio the patch is augmented slice by slice
LONG_2D = 1.5  # nnU-Net v2: 2D patches longer than this are rotated by 15 degrees at most


class SpatialDraw:
    """What may be drawn; defaults are those of nnU-Net v2.

    Args:
        rotation_prob: chance of a rotation.
        rotation_range: largest angle in degrees, one for all axes or one per axis that is turned about, drawn
            uniformly in +-range and independently per axis. None: 30 in 3D; slice by slice 180; 2D patches 180, or 15
            if the longer edge exceeds 1.5 times the shorter.
        scale_prob: chance of a scaling, independent of the rotation.
        scale_range: range of the scale, uniform; above 1 shrinks objects.
        scale_per_axis: draw another scale for every axis.
        slicewise: turn and scale only in the plane of the last two axes ("dummy 2D"). None: if the longest edge
            exceeds 3 times the first.

    Raises:
        InputError: a chance or range is out of bounds.
    """

    def __init__(
        self,
        rotation_prob: float = 0.2,
        rotation_range: float | Sequence[float] | None = None,
        scale_prob: float = 0.2,
        scale_range: Sequence[float] = (0.7, 1.4),
        scale_per_axis: bool = False,
        slicewise: bool | None = None,
    ) -> None:
        self.rotation_prob = check_probability("SpatialDraw", "rotation_prob", rotation_prob)
        self.rotation_range = rotation_range
        self.scale_prob = check_probability("SpatialDraw", "scale_prob", scale_prob)
        self.scale_range = check_range("SpatialDraw", "scale_range", scale_range)
        self.scale_per_axis = scale_per_axis
        self.slicewise = slicewise
        if self.scale_range[0] == 0:
            raise InputError("SpatialDraw: scale_range must be above 0, found 0. Cure: e.g. [0.7, 1.4]")
        turns = rotation_prob > 0 and (rotation_range is None or np.any(rotation_range))
        scales = scale_prob > 0 and self.scale_range != (1.0, 1.0)
        if not turns and not scales:
            warn_does_nothing("SpatialDraw", "it neither rotates nor scales", "Set rotation_prob or scale_prob")

    def is_slicewise(self, patch_size: Sequence[int]) -> bool:
        """Whether a 3D patch is only turned in its last two axes."""
        return max(patch_size) / patch_size[0] > ANISOTROPY if self.slicewise is None else self.slicewise

    def angle_ranges(self, patch_size: Sequence[int], flat: bool) -> list[float]:
        """Largest angle in degrees about each axis of a 3D patch; `flat`: the patch is one slice of a 2D network."""
        slicewise = flat or self.is_slicewise(patch_size)
        if self.rotation_range is None:
            if flat:
                default = 15.0 if max(patch_size[1:]) / min(patch_size[1:]) > LONG_2D else 180.0
            else:
                default = 180.0 if slicewise else 30.0
            ranges = [default] * 3
        elif isinstance(self.rotation_range, Sequence):
            ranges = [float(r) for r in self.rotation_range]
        else:
            ranges = [float(self.rotation_range)] * 3
        if len(ranges) != 3:
            raise InputError(f"SpatialDraw: rotation_range needs 1 or 3 numbers, found {ranges}. Cure: one per axis")
        return [ranges[0], 0.0, 0.0] if slicewise else ranges

    def draw(self, random: np.random.RandomState, patch_size: Sequence[int], flat: bool = False) -> dict[str, Any]:
        """Draw for a 3D patch: `{"angles": [degrees per axis], "scale": [per axis]}`, or `{}` if nothing changes."""
        angles, scale = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
        if random.random_sample() < self.rotation_prob:
            angles = [float(random.uniform(-r, r)) for r in self.angle_ranges(patch_size, flat)]
        if random.random_sample() < self.scale_prob:
            drawn = [float(x) for x in random.uniform(*self.scale_range, size=3)]
            scale = drawn if self.scale_per_axis else [drawn[0]] * 3
            if flat or self.is_slicewise(patch_size):
                scale[0] = 1.0
        if not any(angles) and scale == [1.0, 1.0, 1.0]:
            return {}
        return {"angles": angles, "scale": scale}


def source_box(matrix: np.ndarray, start: Sequence[int], patch_size: Sequence[int]) -> tuple[list[int], list[int]]:
    """Voxels that interpolation looks at.

    Args:
        matrix: `[3, 3]`, patch offsets to source offsets.
        start: first voxel of the untransformed patch in the volume (may be negative).
        patch_size: edges of the patch.

    Returns:
        (first voxel, edges) of a box in the volume that holds every source position and its right neighbours.
    """
    half = (np.asarray(patch_size, float) - 1) / 2
    centre = np.asarray(start, float) + half
    reach = np.abs(matrix) @ half
    # float32 sampling positions may round a hair beyond the exact box
    first = np.floor(centre - reach - 1e-3).astype(int)
    last = np.floor(centre + reach + 1e-3).astype(int) + 1
    return first.tolist(), (last - first + 1).tolist()
