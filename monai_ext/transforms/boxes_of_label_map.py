"""Boxes and areas of all objects of a label map in one pass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import find_objects


class FoundObjects(NamedTuple):
    """Objects that a label map shows, by ascending number.

    Attributes:
        ids: `[G]` int32, values in the label map.
        boxes: `[G, 4]` float32 (x0, y0, x1, y1), pixel edges, half open.
        areas: `[G]` int64, pixels.
    """

    ids: torch.Tensor
    boxes: torch.Tensor
    areas: torch.Tensor


def boxes_of_label_map(label_map: torch.Tensor | np.ndarray) -> FoundObjects:
    """Find all objects; one of several pieces has one box around all of them.

    Args:
        label_map: `[H, W]` integer on the CPU, 0 for none; numbers should be small, memory grows with the largest.
    """
    values = label_map.numpy() if isinstance(label_map, torch.Tensor) else label_map
    counts = np.bincount(values.ravel(), minlength=1)
    ids = np.flatnonzero(counts[1:]) + 1
    boxes = np.zeros((len(ids), 4), dtype=np.float32)
    if len(ids):
        places = find_objects(values, max_label=int(ids[-1]))
        edges = [(x.start, y.start, x.stop, y.stop) for y, x in (places[number - 1] for number in ids.tolist())]
        boxes[:] = edges
    return FoundObjects(
        torch.from_numpy(ids.astype(np.int32)), torch.from_numpy(boxes), torch.from_numpy(counts[ids].astype(np.int64))
    )
