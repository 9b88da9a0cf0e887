"""Cut a case to the box that holds anything, and put the cut part back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Box = tuple[tuple[int, int], ...]

CROP_RULES = ("nonzero", "positive", "none")


def foreground_box(image: np.ndarray, rule: str) -> Box:
    """Smallest box that holds every voxel of the foreground, in any channel.

    Filling holes of the foreground, as nnU-Net v2 does, would not change its box.

    Args:
        image: `[C, D, H, W]`.
        rule: `nonzero` (value != 0), `positive` (value > 0) or `none` (the whole volume).

    Returns:
        `(start, stop)` per spatial axis; the whole volume if nothing is foreground.
    """
    if rule not in CROP_RULES:
        raise ValueError(f"crop rule {rule!r} is none of {', '.join(CROP_RULES)}")
    shape = image.shape[1:]
    whole = tuple((0, size) for size in shape)
    if rule == "none":
        return whole
    depth, rows, columns = (np.zeros(size, dtype=bool) for size in shape)
    for index in range(shape[0]):  # slice by slice: the mask of the volume is never needed
        layer = image[:, index]
        mask = np.any(layer != 0 if rule == "nonzero" else layer > 0, axis=0)
        depth[index] = mask.any()
        rows |= mask.any(axis=1)
        columns |= mask.any(axis=0)
    if not depth.any():
        return whole
    return tuple((int(np.argmax(line)), int(line.size - np.argmax(line[::-1]))) for line in (depth, rows, columns))


def crop(array: np.ndarray, box: Box) -> np.ndarray:
    """View of the last axes of `array` inside the box; leading axes stay whole."""
    return array[_index(box)]


def paste(part: np.ndarray, box: Box, shape: Sequence[int], fill: float = 0) -> np.ndarray:
    """Inverse of `crop`: a new array with last axes `shape` that holds `part` inside the box and `fill` outside."""
    leading = part.shape[: part.ndim - len(box)]
    whole = np.full((*leading, *shape), fill, dtype=part.dtype)
    whole[_index(box)] = part
    return whole


def _index(box: Box) -> Any:
    return (..., *(slice(start, stop) for start, stop in box))
