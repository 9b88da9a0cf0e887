"""Images onto the grid of the plan and scores back onto that of the file, in numpy.

The rules are those of `monai_ext.ops.spline_resample`, from the same tables of weights: cubic B-splines for images,
linear for scores, the nearest slice along an axis that is much coarser than the others (Isensee et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from monai_ext.ops.axis_weights import AxisWeights, axis_weights

OUTPUTS_AT_ONCE = 64  # of one axis: matrices of the weights are banded, and blocks of this size skip most zeros


def resample_image(image: np.ndarray, shape: Sequence[int], separate_axis: int | None) -> np.ndarray:
    """Image `[C, d, h, w]` float32 to `[C, *shape]` float32, limited to the range of its channel.

    With `separate_axis` the range is that of the slice, and slices are copied along that axis.
    """
    tables = _tables(image.shape[1:], shape, 3, separate_axis)
    reduced = tuple(axis + 1 for axis in range(3) if axis != separate_axis)
    low, high = image.min(reduced, keepdims=True), image.max(reduced, keepdims=True)
    if separate_axis is not None:
        low, high = (np.take(bound, tables[separate_axis].first, separate_axis + 1) for bound in (low, high))
    return np.clip(_resampled(image, tables), low, high)


def resize_slices(slices: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Slices `[B, h, w]` to `[B, *size]` float32, bilinear, pixel centres at halves, not smoothed."""
    return _resampled(slices, [axis_weights(a, b, 1) for a, b in zip(slices.shape[1:], size, strict=True)])


def labels_of_slabs(
    slabs: Iterable[tuple[int, np.ndarray]], stored: Sequence[int], shape: Sequence[int], separate_axis: int | None
) -> np.ndarray:
    """Index of the largest score on another grid; scores of a few rows of the first axis are held at a time.

    Args:
        slabs: first row and scores `[K, n, h, w]` of rows of the stored grid, which they cover in order.
        stored: shape `(d, h, w)` of the stored grid.
        shape: shape `(D, H, W)` of the labels.
        separate_axis: axis of order 0.

    Returns:
        `[D, H, W]` uint8, uint16 from 257 classes on; the first of equals wins.
    """
    rows, *others = _tables(stored, shape, 1, separate_axis)
    ends = rows.first + rows.taps  # inputs that each output waits for
    labels: np.ndarray | None = None
    base, done = 0, 0
    held: list[np.ndarray] = []
    for first, scores in slabs:
        if labels is None:
            labels = np.zeros(tuple(shape), np.uint8 if len(scores) <= 256 else np.uint16)
        held.append(scores)
        ready = int(np.searchsorted(ends, first + scores.shape[1], side="right"))
        if ready == done:
            continue
        known = held[0] if len(held) == 1 else np.concatenate(held, 1)
        while done < ready:
            stop = min(ready, done + OUTPUTS_AT_ONCE)
            inputs, table = rows.part(slice(done, stop))
            part = known[:, inputs.start - base : inputs.stop - base]
            labels[done:stop] = index_of_largest(_resampled(part, [table, *others]))
            done = stop
        end = base + known.shape[1]
        # of a grid with fewer rows the next output may read none of these, and not even the first that come next
        kept = min(int(rows.first[done]), end) if done < rows.n_out else end
        held, base = [known[:, kept - base :]], kept
    if labels is None or done != rows.n_out:
        raise ValueError(f"slabs end after {base} rows, the stored grid has {stored[0]}")
    return labels


def index_of_largest(scores: np.ndarray) -> np.ndarray:
    """Scores `[K, ...]` to the index of the largest, the first of equals; several times faster than `argmax`."""
    best = scores[0].copy()
    index = np.zeros(best.shape, np.uint8 if len(scores) <= 256 else np.uint16)
    for number in range(1, len(scores)):
        index[scores[number] > best] = number
        np.maximum(best, scores[number], out=best)
    return index


def _tables(shape: Sequence[int], new_shape: Sequence[int], order: int, separate_axis: int | None) -> list[AxisWeights]:
    sizes = enumerate(zip(shape, new_shape, strict=True))
    return [axis_weights(a, b, 0 if axis == separate_axis else order) for axis, (a, b) in sizes]


def _resampled(values: np.ndarray, tables: Sequence[AxisWeights]) -> np.ndarray:
    """`[K, *inputs]` to `[K, *outputs]` float32; axes that shrink first, which takes the fewest operations."""
    order = sorted(range(len(tables)), key=lambda axis: tables[axis].n_out / tables[axis].n_in)
    for axis in order:
        values = _along_axis(values, axis + 1, tables[axis])
    return values


def _along_axis(values: np.ndarray, axis: int, table: AxisWeights) -> np.ndarray:
    if table.taps == 1 and (table.weights == 1).all():
        same = table.n_in == table.n_out and (table.first == np.arange(table.n_in)).all()
        return values if same else np.take(values, table.first, axis)
    before, after = values.shape[:axis], values.shape[axis + 1 :]
    # [*, inputs, *]; along the last axis the inputs are the columns
    flat = np.ascontiguousarray(values, np.float32).reshape(math.prod(before), table.n_in, -1)
    result = np.empty((len(flat), table.n_out, flat.shape[2]), np.float32)
    for start in range(0, table.n_out, OUTPUTS_AT_ONCE):
        stop = min(start + OUTPUTS_AT_ONCE, table.n_out)
        inputs, part = table.part(slice(start, stop))
        matrix = np.zeros((part.n_out, part.n_in), np.float32)
        np.put_along_axis(matrix, part.first[:, None] + np.arange(part.taps), part.weights.astype(np.float32), 1)
        if flat.shape[2] == 1:
            result[:, start:stop, 0] = flat[:, inputs, 0] @ matrix.T
        else:
            np.matmul(matrix, flat[:, inputs], out=result[:, start:stop])
    return result.reshape(*before, table.n_out, *after)
