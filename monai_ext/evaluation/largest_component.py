"""The largest connected component of some classes of a label map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def keep_largest_component(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Turn every voxel of `values` that is not in their largest component into background.

    The voxels of all `values` together form components; voxels that share a corner are connected (26 neighbours, 8 in
    a volume of one slice). Largest is meant in voxels; of equally large ones the one that comes first in array order
    stays. Other classes are not touched.

    Args:
        labels: `[D, H, W]` non-negative integers; not changed.
        values: class values, above 0.

    Returns:
        `[D, H, W]` of the same dtype; `labels` itself if there is at most one component.
    """
    from scipy.ndimage import label

    table = np.zeros(max(int(labels.max(initial=0)), *values) + 1, dtype=bool)
    table[list(values)] = True
    mask = table[labels]
    box = bounding_box(mask)
    if box is None:
        return labels
    components, count = label(mask[box], structure=np.ones((3,) * labels.ndim, dtype=bool))
    if count <= 1:
        return labels
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    components[components == sizes.argmax()] = 0  # components are numbered in array order, argmax takes the first
    result = labels.copy()
    result[box][components > 0] = 0
    return result


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Smallest box that holds every true voxel, None if there is none."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        found = np.flatnonzero(mask.any(axis=others))
        if not len(found):
            return None
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(box)
