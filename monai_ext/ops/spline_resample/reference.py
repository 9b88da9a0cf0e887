"""Resampling in plain torch, on any device; what the other forms must equal.

The output is made tile by tile: three small matrix products on the window of the input that the tile sees. Apart from
input and result a function holds a few tiles, never a coordinate grid or full-size logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import torch

from monai_ext.ops.axis_weights import AxisWeights, axis_weights, label_weights

Region = tuple[slice, ...]
_TILE = {1: (32, 64, 64), 3: (32, 128, 128)}  # voxels by order; larger where the window's margin is larger


def resample_image(image: torch.Tensor, shape: Sequence[int], separate_axis: int | None) -> torch.Tensor:
    """`[C, d, h, w]` to `[C, *shape]`, float64 if the image is, else float32."""
    image = image.to(_compute_dtype(image))
    result = torch.empty((image.shape[0], *shape), dtype=image.dtype, device=image.device)
    for source, target in zip(image, result, strict=True):
        _fill_channel(source, target, separate_axis)
    return result


def resample_labels(labels: torch.Tensor, shape: Sequence[int], separate_axis: int | None) -> torch.Tensor:
    """`[d, h, w]` integers to `[*shape]`."""
    result = torch.zeros(tuple(shape), dtype=labels.dtype, device=labels.device)
    # exact sums of shares: see `label_weights`
    axes = _axes(labels.shape, shape, 1, separate_axis, torch.float64, labels.device, label_weights)

    def fill(region: Region) -> None:
        blocks = [axis.block(part) for axis, part in zip(axes, region, strict=True)]
        window = labels[_window(blocks)].long()  # torch can do little with unsigned 16 bit
        values = _distinct(window)
        if len(values) == 1:
            result[region] = int(values[0])
            return
        indicators = (window == values[:, None, None, None]).double()
        result[region] = values[_index_of_largest(_interpolate(indicators, blocks)).long()].to(result.dtype)

    for_each_tile(fill, tiles(labels.shape, shape, 1))
    return result


def resample_logits(logits: torch.Tensor, shape: Sequence[int], separate_axis: int | None) -> torch.Tensor:
    """`[K, d, h, w]` to `[K, *shape]`, float64 if the logits are, else float32."""
    result = torch.empty((logits.shape[0], *shape), dtype=_compute_dtype(logits), device=logits.device)

    def keep(region: Region, tile: torch.Tensor) -> None:
        result[(slice(None), *region)] = tile

    use_logit_tiles(logits, shape, separate_axis, keep)
    return result


def use_logit_tiles(
    logits: torch.Tensor, shape: Sequence[int], separate_axis: int | None, use: Callable[[Region, torch.Tensor], None]
) -> None:
    """Calls `use(region of the output, [K, *region])`, in several threads."""
    dtype = _compute_dtype(logits)
    axes = _axes(logits.shape[1:], shape, 1, separate_axis, dtype, logits.device)

    def make(region: Region) -> None:
        blocks = [axis.block(part) for axis, part in zip(axes, region, strict=True)]
        use(region, _interpolate(logits[(slice(None), *_window(blocks))].to(dtype), blocks))

    for_each_tile(make, tiles(logits.shape[1:], shape, 1))


def resample_logits_argmax(logits: torch.Tensor, shape: Sequence[int], separate_axis: int | None) -> torch.Tensor:
    """`[K, d, h, w]` to `[*shape]` uint8, or uint16 from 257 classes on.

    Linear interpolation stays between the smallest and the largest input. So a class whose largest logit in a window
    is below another one's smallest cannot win there and is left out; where one class is left, nothing is computed.
    """
    dtype = torch.uint8 if logits.shape[0] <= 256 else torch.uint16
    result = torch.zeros(tuple(shape), dtype=dtype, device=logits.device)
    compute = _compute_dtype(logits)
    axes = _axes(logits.shape[1:], shape, 1, separate_axis, compute, logits.device)

    def fill(region: Region) -> None:
        blocks = [axis.block(part) for axis, part in zip(axes, region, strict=True)]
        window = logits[(slice(None), *_window(blocks))]
        beaten = window.amax((1, 2, 3)) < window.amin((1, 2, 3)).max()  # nobody is where there is a NaN
        candidates = torch.nonzero(~beaten).flatten()
        if len(candidates) == 1:
            result[region] = int(candidates)
            return
        tile = _interpolate(window[candidates].to(compute), blocks)
        result[region] = candidates[_index_of_largest(tile).long()].to(dtype)

    for_each_tile(fill, tiles(logits.shape[1:], shape, 1))
    return result


def tiles(shape: Sequence[int], new_shape: Sequence[int], order: int) -> Iterator[Region]:
    """Regions that cover the output; smaller when shrinking, so that their windows stay small too."""
    parts = []
    for n_in, n_out, size in zip(shape, new_shape, _TILE[order], strict=True):
        step = max(1, int(size * min(1.0, n_out / n_in)))
        parts.append([slice(start, min(start + step, n_out)) for start in range(0, n_out, step)])
    return product(*parts)


def for_each_tile(work: Callable[[Region], None], regions: Iterable[Region]) -> None:
    """Work on tiles in as many threads as torch may use, each operation in one thread.

    Splitting every small operation instead makes all threads wait for each other thousands of times, which on a busy
    machine (another process on one of the cores) is slower than one thread by a factor of ten and more.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        for region in regions:
            work(region)
        return
    torch.set_num_threads(1)  # what new threads start with
    try:
        with ThreadPoolExecutor(threads) as executor:
            for _ in executor.map(work, regions):
                pass
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Block:
    """Part of one axis: `weights` `[outputs, inputs]` on a slice of the inputs, None where nothing changes."""

    inputs: slice
    weights: torch.Tensor | None


class _Axis:
    """The matrices of one axis."""

    def __init__(self, table: AxisWeights, dtype: torch.dtype, device: torch.device) -> None:
        self.table, self.dtype, self.device = table, dtype, device
        self._blocks: dict[tuple[int, int], _Block] = {}

    def block(self, part: slice) -> _Block:
        key = (part.start, part.stop)
        if key not in self._blocks:
            self._blocks[key] = self._make(part)
        return self._blocks[key]

    def _make(self, part: slice) -> _Block:
        if self.table.n_in == self.table.n_out:
            return _Block(part, None)
        inputs, table = self.table.part(part)
        matrix = torch.zeros(table.n_out, table.n_in, dtype=torch.float64)
        columns = torch.from_numpy(table.first)[:, None] + torch.arange(table.taps)
        matrix.scatter_(1, columns, torch.from_numpy(table.weights))
        return _Block(inputs, matrix.to(self.device, self.dtype))


def _fill_channel(volume: torch.Tensor, out: torch.Tensor, separate_axis: int | None) -> None:
    axes = _axes(volume.shape, out.shape, 3, separate_axis, volume.dtype, volume.device)
    low, high = value_range(volume, separate_axis)
    nearest = None if separate_axis is None else torch.from_numpy(axes[separate_axis].table.first).to(volume.device)

    def fill(region: Region) -> None:
        blocks = [axis.block(part) for axis, part in zip(axes, region, strict=True)]
        tile = _interpolate(volume[_window(blocks)][None], blocks)[0]
        if separate_axis is None or nearest is None:
            tile.clamp_(low, high)
        else:
            slices = nearest[region[separate_axis]]
            tile.clamp_(low.index_select(separate_axis, slices), high.index_select(separate_axis, slices))
        out[region] = tile

    for_each_tile(fill, tiles(volume.shape, out.shape, 3))


def value_range(volume: torch.Tensor, separate_axis: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest value of `[d, h, w]`, or of each slice along `separate_axis`; all axes are kept."""
    reduced = tuple(axis for axis in range(3) if axis != separate_axis)
    return volume.amin(reduced, keepdim=True), volume.amax(reduced, keepdim=True)


def _axes(
    shape: Sequence[int],
    new_shape: Sequence[int],
    order: int,
    separate_axis: int | None,
    dtype: torch.dtype,
    device: torch.device,
    weights: Callable[[int, int, int], AxisWeights] = axis_weights,
) -> list[_Axis]:
    sizes = enumerate(zip(shape, new_shape, strict=True))
    return [_Axis(weights(a, b, 0 if axis == separate_axis else order), dtype, device) for axis, (a, b) in sizes]


def _compute_dtype(values: torch.Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def _distinct(window: torch.Tensor) -> torch.Tensor:
    """Sorted values of a window."""
    low, high = map(int, window.aminmax())
    if high - low < window.numel():  # counting is faster than sorting
        return torch.nonzero(torch.bincount((window - low).flatten())).flatten() + low
    return window.unique()


def _window(blocks: Sequence[_Block]) -> Region:
    return tuple(block.inputs for block in blocks)


def _interpolate(window: torch.Tensor, blocks: Sequence[_Block]) -> torch.Tensor:
    """`[K, *inputs]` to `[K, *outputs]`."""
    work = [(axis, block.weights) for axis, block in enumerate(blocks, start=1) if block.weights is not None]
    with torch.autocast(window.device.type, enabled=False):  # products in half precision would move borders
        # axes that shrink first, those that grow most last: fewest operations
        for axis, weights in sorted(work, key=lambda item: item[1].shape[0] / item[1].shape[1]):
            size = window.shape
            if axis == len(blocks):
                window = (window.reshape(-1, size[axis]) @ weights.T).view(*size[:axis], -1)
            else:
                rows = window.reshape(math.prod(size[:axis]), size[axis], -1)
                window = torch.bmm(weights.expand(len(rows), -1, -1), rows).view(*size[:axis], -1, *size[axis + 1 :])
    return window


def _index_of_largest(values: torch.Tensor) -> torch.Tensor:
    """Along the first axis, the first of equals. Ten times faster than `argmax`, which is not vectorised there."""
    best = values[0].clone()
    index = torch.zeros(best.shape, dtype=torch.uint8 if len(values) <= 256 else torch.int32, device=best.device)
    for number in range(1, len(values)):
        index = torch.maximum(index, (values[number] > best).to(index.dtype).mul_(number))
        torch.maximum(best, values[number], out=best)
    return index
