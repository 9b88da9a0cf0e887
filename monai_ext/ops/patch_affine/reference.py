"""Plain torch form: the box that a patch needs is copied, padded, then sampled slab by slab.

Slabs are small enough for the cache. Labels are voted on only in cells whose corners differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from monai_ext.ops.patch_affine.positions import FRACTION_BITS, VOTE_BITS, WEIGHT_BITS

_CORNERS = [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]
_SLAB = 1 << 16  # voxels; smaller slabs pay more for the calls, larger ones leave the cache


def patch_affine(
    images: Sequence[torch.Tensor],
    labels: Sequence[torch.Tensor] | None,
    positions: torch.Tensor,
    size: Sequence[int],
    order: int,
    pad_label: int,
    fill: float,
    nearest: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As the public function, with `positions` `[B, 12]` int64 in fixed point and `label_mode` as a truth value.

    Computes in float64 if an image is float64, else in float32.
    """
    dtype = torch.float64 if any(image.dtype == torch.float64 for image in images) else torch.float32
    device = images[0].device
    out = torch.empty((len(images), images[0].shape[0], *size), dtype=dtype, device=device)
    target = None if labels is None else torch.empty((len(images), 1, *size), dtype=labels[0].dtype, device=device)
    if out.numel() == 0:
        return out, target
    weigh, before, after = (_linear_weights, 0, 1) if order == 1 else (_cubic_weights, 1, 2)
    for b, numbers in enumerate(positions.tolist()):
        box, lines = _box(images[b], numbers, size, before, after, fill, dtype)
        _fill_slabs(out[b], lines, partial(_interpolate, box, weigh, before, dtype))
        if labels is None or target is None:
            continue
        if nearest:
            half = 1 << (FRACTION_BITS - 1)
            numbers = [n + half if i < 3 else n for i, n in enumerate(numbers)]
            box, lines = _box(labels[b], numbers, size, 0, 0, pad_label, target.dtype)
            _fill_slabs(target[b], lines, partial(_classes, box[0]))
        else:
            box, lines = _box(labels[b], numbers, size, 0, 1, pad_label, target.dtype)
            _fill_slabs(target[b], lines, partial(_vote, box[0], _mixed_cells(box[0])))
    return out, target


def _box(
    volume: torch.Tensor,
    numbers: Sequence[int],
    size: Sequence[int],
    before: int,
    after: int,
    outside: float,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
    """Copy of all voxels that the patch looks at, and what each patch axis j adds to coordinate i in it, `[i][j]`."""
    first, edges, lines = [], [], []
    for i in range(3):
        origin, steps = numbers[i], numbers[3 + 3 * i : 6 + 3 * i]
        ends = [step * (n - 1) for step, n in zip(steps, size, strict=True)]
        low = (origin + sum(min(0, end) for end in ends)) >> FRACTION_BITS
        high = (origin + sum(max(0, end) for end in ends)) >> FRACTION_BITS
        first.append(low - before)
        edges.append(high + after - low + before + 1)
        line = [
            (step * torch.arange(n, device=volume.device)).view([-1 if k == j else 1 for k in range(3)])
            for j, (step, n) in enumerate(zip(steps, size, strict=True))
        ]
        line[0] += origin - (first[i] << FRACTION_BITS)
        lines.append(line)
    box = torch.full((volume.shape[0], *edges), outside, dtype=dtype, device=volume.device)
    inside, there = [slice(None)], [slice(None)]
    for f, e, n in zip(first, edges, volume.shape[1:], strict=True):
        begin, end = max(f, 0), max(min(f + e, n), max(f, 0))
        there.append(slice(begin, end))
        inside.append(slice(begin - f, end - f) if end > begin else slice(0, 0))
    if all(part.stop != part.start for part in there[1:]):
        box[tuple(inside)] = volume[tuple(there)].to(dtype)
    return box, lines


def _fill_slabs(
    out: torch.Tensor, lines: list[list[torch.Tensor]], values: Callable[[list[torch.Tensor]], torch.Tensor]
) -> None:
    """Set `out` `[C, *size]` slab by slab to `values` of the flat positions along the three axes, in fixed point."""
    planes = max(1, _SLAB // (out.shape[2] * out.shape[3]))
    for first in range(0, out.shape[1], planes):
        slab = slice(first, first + planes)
        positions = [(line[0][slab] + line[1] + line[2]).flatten() for line in lines]
        part = out[:, slab]
        part.copy_(values(positions).view(part.shape))


def _flat_index(positions: list[torch.Tensor], shape: Sequence[int], before: int) -> torch.Tensor:
    """Index of the first voxel of the cells in a flat channel; `before`: voxels left of the cell."""
    z, y, x = [(position >> FRACTION_BITS) - before for position in positions]
    return z.mul_(shape[-2]).add_(y).mul_(shape[-1]).add_(x)


def _fraction(position: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    whole = (position >> (FRACTION_BITS - WEIGHT_BITS)).bitwise_and_((1 << WEIGHT_BITS) - 1)
    return whole.to(dtype).mul_(2.0**-WEIGHT_BITS)


def _linear_weights(w: torch.Tensor) -> list[torch.Tensor]:
    return [1 - w, w]


def _cubic_weights(w: torch.Tensor) -> list[torch.Tensor]:
    v = 1 - w
    return [-0.5 * w * v * v, 1 + w * w * (1.5 * w - 2.5), 1 + v * v * (1.5 * v - 2.5), -0.5 * v * w * w]


def _interpolate(
    box: torch.Tensor,
    weigh: Callable[[torch.Tensor], list[torch.Tensor]],
    before: int,
    dtype: torch.dtype,
    positions: list[torch.Tensor],
) -> torch.Tensor:
    """Values `[C, m]` at m positions of a box `[C, d, h, w]`."""
    index = _flat_index(positions, box.shape, before)
    weights = [weigh(_fraction(position, dtype)) for position in positions]
    if not positions[0].bitwise_and(((1 << WEIGHT_BITS) - 1) << (FRACTION_BITS - WEIGHT_BITS)).any():
        # patches that keep to the planes need one of them
        index = index + before * box.shape[2] * box.shape[3]
        weights[0] = [weights[0][before]]
    flat = box.flatten(1)

    def line(offset: int) -> torch.Tensor:
        return _weighted([flat.index_select(1, index + (offset + c)) for c in range(len(weights[2]))], weights[2])

    def plane(offset: int) -> torch.Tensor:
        return _weighted([line(offset + b * box.shape[3]) for b in range(len(weights[1]))], weights[1])

    return _weighted([plane(a * box.shape[2] * box.shape[3]) for a in range(len(weights[0]))], weights[0])


def _weighted(values: list[torch.Tensor], weights: list[torch.Tensor]) -> torch.Tensor:
    if len(values) == 2:
        return values[0].lerp_(values[1], weights[1])
    total = values[0].mul_(weights[0])
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total.addcmul_(value, weight)
    return total


def _classes(label: torch.Tensor, positions: list[torch.Tensor]) -> torch.Tensor:
    return label.flatten().index_select(0, _flat_index(positions, label.shape, 0))


def _mixed_cells(label: torch.Tensor) -> torch.Tensor:
    """True where the eight corners of the cell starting at a voxel differ; `[d, h, w]` bool."""
    low = high = label
    for axis in range(3):
        left, right = (slice(None),) * axis + (slice(None, -1),), (slice(None),) * axis + (slice(1, None),)
        low, high = torch.minimum(low[left], low[right]), torch.maximum(high[left], high[right])
    mixed = torch.zeros_like(label, dtype=torch.bool)
    mixed[:-1, :-1, :-1] = low != high
    return mixed


def _vote(label: torch.Tensor, mixed_cells: torch.Tensor, positions: list[torch.Tensor]) -> torch.Tensor:
    """Class of the largest linear weight; only cells near a surface need a vote. Weights are integers."""
    index = _flat_index(positions, label.shape, 0)
    flat = label.flatten()
    out = flat.index_select(0, index)
    mixed = mixed_cells.flatten().index_select(0, index).nonzero()[:, 0]
    if len(mixed) == 0:
        return out
    cells = index.index_select(0, mixed)
    cut, one = FRACTION_BITS - VOTE_BITS, 1 << VOTE_BITS
    right = [(position.index_select(0, mixed) >> cut) & (one - 1) for position in positions]
    sides = [[one - w, w] for w in right]
    corners = torch.stack(
        [flat.index_select(0, cells + ((a * label.shape[1] + b) * label.shape[2] + c)) for a, b, c in _CORNERS]
    )
    shares = torch.stack([sides[0][a] * sides[1][b] * sides[2][c] for a, b, c in _CORNERS])
    smallest, largest = corners.amin(0), corners.amax(0)
    share_smallest, share_largest = _share(smallest, corners, shares), _share(largest, corners, shares)
    winner = torch.where(share_largest > share_smallest, largest, smallest)
    # a third class can only win where it holds as much as the two counted; most cells have no third
    rest = one**3 - share_smallest - share_largest
    open_cells = (rest >= torch.maximum(share_smallest, share_largest)).nonzero()[:, 0]
    if len(open_cells):
        winner[open_cells] = _argmax_vote(corners[:, open_cells], shares[:, open_cells])
    return out.index_copy_(0, mixed, winner)


def _argmax_vote(corners: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Class with the largest summed share among eight corners `[8, m]`, the smallest on a tie; `[m]`."""
    best, score = corners[0], torch.full_like(shares[0], -1)
    for candidate in corners:
        total = _share(candidate, corners, shares)
        better = (total > score) | ((total == score) & (candidate < best))
        best, score = torch.where(better, candidate, best), torch.where(better, total, score)
    return best


def _share(candidate: torch.Tensor, corners: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Summed share of a class `[m]`."""
    return ((corners == candidate) * shares).sum(0)
