"""Linear interpolation of images and label maps at arbitrary positions.

Work goes by slabs small enough for the cache; index and weights of a slab serve the image and the label. On one CPU
core this takes half of the time of the 3D `grid_sample`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

_CORNERS = [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]
_SLAB = 1 << 17  # voxels; smaller slabs pay more for the calls, larger ones leave the cache


def sample_patch(
    image: torch.Tensor, label: torch.Tensor | None, matrix: np.ndarray, centre: Sequence[float], size: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Sample a patch from a box around it: patch offset `o` takes its value from `centre + matrix @ o`.

    The label is that of the class with the largest linear weight, as if the indicator of every class were interpolated
    and the argmax taken (the smallest class wins a tie), but at a cost that does not grow with the number of classes.

    Args:
        image: `[C, d, h, w]` float32, every edge at least 2.
        label: `[1, d, h, w]` integer or None.
        matrix: `[3, 3]`.
        centre: position of the patch centre in the box, in voxels.
        size: edges of the patch; positions beyond the box take the value at its border.

    Returns:
        image `[C, *size]` float32 and label `[1, *size]` of its own type.
    """
    channels = [channel.contiguous().view(-1) for channel in image]
    out = torch.from_numpy(np.empty((len(channels), *size), np.float32))  # numpy backs large arrays with huge pages
    lines = _position_lines(matrix, centre, size)
    if label is not None:
        flat_label = label.contiguous().view(-1)
        mixed_cells = _mixed_cells(label[0]).view(-1)
        target = torch.empty((1, *size), dtype=label.dtype)
    planes = max(1, _SLAB // (size[1] * size[2]))
    for first in range(0, size[0], planes):
        slab = slice(first, first + planes)
        index, weights = _cells(lines, slab, image.shape[1:])
        for channel, result in zip(channels, out, strict=True):
            result[slab] = _interpolate(channel, index, weights, image.shape[1:]).view(-1, *size[1:])
        if label is not None:
            target[0, slab] = _vote(flat_label, mixed_cells, index, weights, image.shape[1:]).view(-1, *size[1:])
    return out, None if label is None else target


def _position_lines(matrix: np.ndarray, centre: Sequence[float], size: Sequence[int]) -> list[list[torch.Tensor]]:
    """Part of source coordinate `i` that patch axis `j` adds, as `[i][j]`, float32 and ready to broadcast."""
    lines = []
    for i in range(3):
        row = []
        for j, n in enumerate(size):
            part = matrix[i, j] * (np.arange(n) - (n - 1) / 2) + (centre[i] if j == 0 else 0.0)
            row.append(torch.from_numpy(part.astype(np.float32)).view([-1 if k == j else 1 for k in range(3)]))
        lines.append(row)
    return lines


def _cells(lines: list[list[torch.Tensor]], slab: slice, shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat index (int32) of the cell each position lies in and its offset `[3, m]` in it, for one slab."""
    size = [len(lines[0][0][slab]), lines[0][1].shape[1], lines[0][2].shape[2]]
    weights = torch.empty((3, *size))
    index = torch.zeros(size, dtype=torch.int32)
    for axis, n in enumerate(shape):
        position = torch.add(lines[axis][0][slab] + lines[axis][1], lines[axis][2], out=weights[axis])
        low = position.floor().clamp_(0, n - 2)
        position.sub_(low).clamp_(0, 1)
        index.mul_(n).add_(low.to(torch.int32))
    return index.view(-1), weights.view(3, -1)


def _interpolate(
    channel: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, shape: Sequence[int]
) -> torch.Tensor:
    """Linear interpolation of a flat channel; `[m]`."""

    def line(offset: int) -> torch.Tensor:
        left = channel.index_select(0, index + offset)
        return left.lerp_(channel.index_select(0, index + (offset + 1)), weights[2])

    def plane(offset: int) -> torch.Tensor:
        return line(offset).lerp_(line(offset + shape[2]), weights[1])

    near = plane(0)
    # patches turned in the plane need only one
    return near.lerp_(plane(shape[1] * shape[2]), weights[0]) if weights[0].any() else near


def _mixed_cells(label: torch.Tensor) -> torch.Tensor:
    """True where the eight corners of the cell starting at a voxel differ; `[d, h, w]` bool."""
    low = high = label.numpy()
    mixed = np.zeros(low.shape, bool)
    for axis in range(3):
        left, right = [(slice(None),) * axis + (cut,) for cut in (slice(None, -1), slice(1, None))]
        low, high = np.minimum(low[left], low[right]), np.maximum(high[left], high[right])
    np.not_equal(low, high, out=mixed[:-1, :-1, :-1])
    return torch.from_numpy(mixed)


def _vote(
    label: torch.Tensor, mixed_cells: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, shape: Sequence[int]
) -> torch.Tensor:
    """Class of the largest linear weight; only cells near a surface need a vote."""
    out = label.index_select(0, index)
    mixed = torch.from_numpy(np.flatnonzero(mixed_cells.index_select(0, index).numpy()))
    if len(mixed) == 0:
        return out
    cells = index.index_select(0, mixed)
    right = weights.index_select(1, mixed)
    sides = torch.stack([1 - right, right])
    corners = torch.stack([label.index_select(0, cells + (a * shape[1] + b) * shape[2] + c) for a, b, c in _CORNERS])
    shares = torch.stack([sides[a, 0] * sides[b, 1] * sides[c, 2] for a, b, c in _CORNERS])
    smallest, largest = corners.amin(0), corners.amax(0)
    share_smallest = ((corners == smallest) * shares).sum(0)
    share_largest = ((corners == largest) * shares).sum(0)
    winner = torch.where(share_largest > share_smallest, largest, smallest)
    # a third class can only win where it holds more than the two counted; most cells have no third
    rest = 1 - share_smallest - share_largest
    open_cells = (rest + 1e-5 > torch.maximum(share_smallest, share_largest)).nonzero()[:, 0]
    if len(open_cells):
        winner[open_cells] = _argmax_vote(corners[:, open_cells], shares[:, open_cells])
    return out.index_copy_(0, mixed, winner)


def _argmax_vote(corners: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Class with the largest summed share among eight corners `[8, m]`, the smallest on a tie; `[m]`."""
    best, score = corners[0], torch.full_like(shares[0], -1.0)
    for candidate in corners:
        total = ((corners == candidate) * shares).sum(0)
        better = (total > score) | ((total == score) & (candidate < best))
        best, score = torch.where(better, candidate, best), torch.where(better, total, score)
    return best
