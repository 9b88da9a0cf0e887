"""Where the windows of a sliding-window prediction lie; needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from monai_ext.errors import InputError


def window_positions(image_shape: Sequence[int], window: Sequence[int], overlap: float) -> list[list[int]]:
    """First voxel of every window along each axis: evenly spread, the last one flush with the end.

    An axis of `n` voxels and a window of `w` get `ceil((n - w) / (w * (1 - overlap))) + 1` windows, so neighbours share
    at least `overlap * w` voxels. Starts are rounded to the nearest voxel, halves to the even one. This is nnU-Net's
    rule (Isensee et al., Nature Methods 2021). An axis that is not longer than the window gets the one start 0: the
    caller pads it.

    Args:
        image_shape: voxels per spatial axis.
        window: window size per axis, in voxels.
        overlap: shared fraction of neighbouring windows, in [0, 1).

    Returns:
        One ascending list of starts per axis.

    Raises:
        InputError: overlap outside [0, 1).
        ValueError: sizes that are not positive, or of different lengths.
    """
    check_overlap(overlap)
    if len(image_shape) != len(window):
        raise ValueError(f"image_shape and window must have as many axes, got {tuple(image_shape)} and {tuple(window)}")
    if any(size < 1 for size in (*image_shape, *window)):
        raise ValueError(f"sizes must be at least 1, got image {tuple(image_shape)}, window {tuple(window)}")
    # 1 - 0.9 is 0.09999999999999998 in binary: unrounded, it would add a window wherever the division comes out even
    step = round(1.0 - overlap, 12)
    positions = []
    for size, extent in zip(image_shape, window, strict=True):
        last = max(size - extent, 0)
        gaps = math.ceil(last / (extent * step))
        positions.append([round(last / gaps * i) for i in range(gaps + 1)] if gaps else [0])
    return positions


def check_overlap(overlap: float) -> None:
    """Raise `InputError` unless `overlap` lies in [0, 1)."""
    if not 0.0 <= overlap < 1.0:
        raise InputError(
            f"overlap: must be at least 0 and below 1, got {overlap}. Cure: use 0.5, or 0.25 for half the windows"
        )
