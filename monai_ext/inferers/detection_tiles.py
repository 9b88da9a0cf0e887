"""Overlapping tiles of a large image, and which of them sees an object whole."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np


class Tile(NamedTuple):
    """Part of an image, in its pixels."""

    top: int
    left: int
    height: int
    width: int


def tile_starts(length: int, size: int, overlap: int) -> list[int]:
    """First pixels of the fewest tiles that cover an axis, evenly spread, each overlapping the next by `overlap` or
    more; one if the axis fits into a tile.

    Raises:
        ValueError: the overlap is not from 0 to below the tile.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"overlap must be from 0 to below the tile's {size} pixels, got {overlap}")
    if length <= size:
        return [0]
    count = -(-(length - overlap) // (size - overlap))
    # rounding down keeps the overlaps: neighbouring starts are never further apart than size - overlap
    return [i * (length - size) // (count - 1) for i in range(count)]


def tile_grid(height: int, width: int, size: Sequence[int], overlap: int) -> list[Tile]:
    """Tiles of an image `height` x `width`, rows first; all of one shape, at most `size` (y, x)."""
    shape = (min(height, size[0]), min(width, size[1]))
    starts = [tile_starts(length, edge, overlap) for length, edge in zip((height, width), size, strict=True)]
    return [Tile(top, left, *shape) for top, left in product(*starts)]


def inner_borders(tiles: Sequence[Tile], height: int, width: int) -> np.ndarray:
    """Edges of tiles `[T, 4]` (x0, y0, x1, y1) float32; infinite where the image ends with them."""
    edges = np.array([(t.left, t.top, t.left + t.width, t.top + t.height) for t in tiles], dtype=np.float32)
    edges = edges.reshape(-1, 4)
    edges[edges[:, 0] <= 0, 0] = -np.inf
    edges[edges[:, 1] <= 0, 1] = -np.inf
    edges[edges[:, 2] >= width, 2] = np.inf
    edges[edges[:, 3] >= height, 3] = np.inf
    return edges


def inside(boxes: np.ndarray, borders: np.ndarray, margin: float) -> np.ndarray:
    """Whether boxes lie within borders, and at least `margin` away from them.

    Args:
        boxes: `[N, 4]`.
        borders: `[N, 4]` or `[1, 4]`, as from `inner_borders`.
        margin: pixels.

    Returns:
        `[N]` bool.
    """
    after = (boxes[:, :2] >= borders[:, :2] + margin).all(1)
    before = (boxes[:, 2:] <= borders[:, 2:] - margin).all(1)
    return np.asarray(after & before)


def neighbours(tiles: Sequence[Tile]) -> list[np.ndarray]:
    """For each tile the numbers of the others that share pixels with it, ascending."""
    top, left, height, width = np.array(tiles, dtype=np.int64).reshape(-1, 4).T
    found = []
    for i in range(len(tiles)):
        shares = (top < top[i] + height[i]) & (top[i] < top + height)
        shares &= (left < left[i] + width[i]) & (left[i] < left + width)
        shares[i] = False
        found.append(np.flatnonzero(shares))
    return found
