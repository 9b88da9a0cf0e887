"""Closing of small gaps in a label map, slice by slice."""

from __future__ import annotations

import numpy as np


def close_labels(labels: np.ndarray, axis: int = 0, ignore_label: int | None = None) -> np.ndarray:
    """Grey-level closing with a square of 3 x 3 voxels in every slice (dilation, then erosion; Serra 1982).

    Values are compared as numbers, as in the nnU-Net of NVIDIA DeepLearningExamples (2021): where two classes reach
    into one gap, the larger value may fill it. No voxel gets a smaller value, and regions keep their outline apart from
    gaps and notches of up to two voxels. Beyond the border nothing is assumed: the square is cut off there.

    Args:
        labels: `[D, H, W]`, integers; not changed.
        axis: normal to the slices.
        ignore_label: value of unannotated voxels: they stay, and fill no gap; None if there are none.

    Returns:
        Labels of the same shape and dtype.
    """
    unknown = None if ignore_label is None else labels == ignore_label
    closed = labels.copy() if unknown is None else np.where(unknown, labels.dtype.type(0), labels)
    within = [a for a in range(labels.ndim) if a != axis % labels.ndim]
    for extreme in (np.maximum, np.minimum):
        for a in within:  # a square is a row of a column: one axis at a time
            closed = _over_neighbours(closed, extreme, a)
    if unknown is not None:
        closed[unknown] = labels.dtype.type(ignore_label)
    return closed


def _over_neighbours(labels: np.ndarray, extreme: np.ufunc, axis: int) -> np.ndarray:
    """Extreme of every voxel and its two neighbours along an axis."""
    result = labels.copy()
    source, target = np.moveaxis(labels, axis, 0), np.moveaxis(result, axis, 0)
    extreme(target[1:], source[:-1], out=target[1:])
    extreme(target[:-1], source[1:], out=target[:-1])
    return result
