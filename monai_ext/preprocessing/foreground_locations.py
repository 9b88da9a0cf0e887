"""Where the classes of a case are: a sample of voxels that foreground patches are centred on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

MOST_LOCATIONS = 10_000  # per class, or a hundredth of the class if that is more (nnU-Net v2)


def find_locations(label: np.ndarray, classes: Sequence[int], name: str) -> dict[int, np.ndarray]:
    """Voxels of each class, drawn without replacement; the same for the same case name.

    Args:
        label: `[d, h, w]`.
        classes: foreground values.
        name: case name, decides the draw.

    Returns:
        Class value to int32 `[n, 3]` in ascending order, `n = max(min(10000, n_c), ceil(n_c / 100))`.
    """
    from scipy.ndimage import find_objects

    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    boxes = find_objects(label, max_label=max(classes, default=0)) if max(classes, default=0) > 0 else []
    locations = {}
    for value in sorted(classes):
        box = boxes[value - 1]
        if box is None:
            continue
        found = np.flatnonzero(label[box] == value)
        count = max(min(MOST_LOCATIONS, len(found)), -(-len(found) // 100))
        if count < len(found):
            found = found[np.sort(rng.choice(len(found), count, replace=False))]
        voxels = np.stack(np.unravel_index(found, label[box].shape), axis=1)
        locations[value] = (voxels + [part.start for part in box]).astype(np.int32)
    return locations
