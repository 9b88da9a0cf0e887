"""Change the voxel grid of images, label maps and logits.

Grids are aligned by their outer faces: output voxel `i` of `n_out` lies at `(i + 0.5) * n_in / n_out - 0.5` of the
input, and values beyond the border repeat the border voxel. The rules follow nnU-Net v2 (Isensee et al. 2021), which
calls scikit-image: images by cubic B-splines, label maps linearly for each class (the largest share wins), logits
linearly, and order 0 along an axis that is much coarser than the others.

All of this is separable, so along every axis it is one banded matrix. The output is made tile by tile: three small
float32 matrix products on the window of the input that the tile sees. Apart from input and result a function holds a
few tiles, never a float64 copy, a coordinate grid or full-size logits; and a tile in which one class is certain costs
next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

ANISOTROPY_THRESHOLD = 3.0  # nnU-Net: an axis is coarse from here on

_POLE = math.sqrt(3.0) - 2.0  # of the cubic B-spline's inverse filter
_SPLINE_REACH = 14  # voxels each side; |pole| ** 14 = 1e-8 is below the resolution of float32
_TIE_SHIFT = 2.0**-16  # voxels; well above rounding errors, so that these never decide between equal shares
_TILE = {0: (32, 64, 64), 1: (32, 64, 64), 3: (32, 128, 128)}  # voxels; larger where the window's margin is larger


def needs_separate_axis(spacing: Sequence[float], new_spacing: Sequence[float]) -> int | None:
    """Axis to resample with order 0, because it is more than three times coarser than the finest, or None.

    The present spacing decides if it is anisotropic itself, else the new one. Several equally coarse axes: None.
    """
    for candidate in (spacing, new_spacing):
        coarsest = max(candidate)
        if coarsest / min(candidate) > ANISOTROPY_THRESHOLD:
            axes = [axis for axis, value in enumerate(candidate) if value == coarsest]
            return axes[0] if len(axes) == 1 else None
    return None


def resample_image(image: np.ndarray, shape: Sequence[int], separate_axis: int | None = None) -> np.ndarray:
    """Resample by cubic B-splines; with `separate_axis` slice by slice, and the nearest slice along that axis.

    Results are limited to the range of the channel (of the slice, with `separate_axis`): splines overshoot at edges.

    Args:
        image: `[C, d, h, w]` float32.
        shape: new size `(d, h, w)`.
        separate_axis: spatial axis of order 0, see `needs_separate_axis`.

    Returns:
        `[C, *shape]` float32; a copy, also when the shape stays the same.
    """
    shape = tuple(shape)
    if image.shape[1:] == shape:
        return np.array(image, dtype=np.float32, order="C")
    result = np.empty((image.shape[0], *shape), dtype=np.float32)
    for source, target in zip(image, result, strict=True):
        # a writable copy of read-only arrays: torch has no read-only tensors
        _fill_channel(
            torch.from_numpy(np.require(source, np.float32, ["C", "W"])), torch.from_numpy(target), separate_axis
        )
    return result


def resample_labels(labels: np.ndarray, shape: Sequence[int], separate_axis: int | None = None) -> np.ndarray:
    """Resample each class's indicator linearly and give every voxel the class with the largest share.

    Shares are equal where an output lies midway between inputs; then the class at the higher coordinate wins.

    Args:
        labels: `[d, h, w]` integers, not negative.
        shape: new size `(d, h, w)`.
        separate_axis: spatial axis of order 0, see `needs_separate_axis`.

    Returns:
        `[*shape]`, dtype of the input; a copy, also when the shape stays the same.
    """
    shape = tuple(shape)
    if labels.shape == shape:
        return np.array(labels, order="C")
    result = np.zeros(shape, dtype=labels.dtype)
    axes = _axes(labels.shape, shape, 1, separate_axis, shift=_TIE_SHIFT)

    def fill(region: tuple[slice, ...]) -> None:
        blocks = [axis.block(part) for axis, part in zip(axes, region, strict=True)]
        window = labels[_window(blocks)]
        if window.min() == window.max():
            result[region] = window.flat[0]
            return
        values = np.flatnonzero(np.bincount(window.ravel()))
        others = torch.from_numpy(np.stack([window == value for value in values[1:]]))
        shares = _interpolate(others.float(), blocks)
        first = 1 - shares.sum(0, keepdim=True)
        result[region] = values[_index_of_largest(torch.cat([first, shares])).numpy()]

    _for_each(fill, _tiles(axes, 1))
    return result


def resample_logits(logits: torch.Tensor, shape: Sequence[int], separate_axis: int | None = None) -> torch.Tensor:
    """Resample linearly, every class apart.

    Args:
        logits: `[K, d, h, w]`, any float dtype.
        shape: new size `(d, h, w)`.
        separate_axis: spatial axis of order 0, see `needs_separate_axis`.

    Returns:
        `[K, *shape]` float32 on the device of the input.
    """
    result = torch.empty((logits.shape[0], *shape), dtype=torch.float32, device=logits.device)

    def keep(region: tuple[slice, ...], tile: torch.Tensor) -> None:
        result[(slice(None), *region)] = tile

    use_logit_tiles(logits, shape, separate_axis, keep)
    return result


def use_logit_tiles(
    logits: torch.Tensor,
    shape: Sequence[int],
    separate_axis: int | None,
    use: Callable[[tuple[slice, ...], torch.Tensor], None],
) -> None:
    """Resample in parts that fit into memory: `use(region of the output, [K, *region] float32)`, in several threads."""
    axes = _axes(logits.shape[1:], shape, 1, separate_axis, logits.device)

    def make(region: tuple[slice, ...]) -> None:
        blocks = [axis.block(part) for axis, part in zip(axes, region, strict=True)]
        use(region, _interpolate(logits[(slice(None), *_window(blocks))].float(), blocks))

    _for_each(make, _tiles(axes, 1))


def resample_logits_argmax(logits: torch.Tensor, shape: Sequence[int], separate_axis: int | None = None) -> np.ndarray:
    """Label map of the resampled logits, without ever holding them.

    Linear interpolation stays between the smallest and the largest input. So a class whose largest logit in a window
    is below another one's smallest cannot win there and is left out; where one class is left, nothing is computed.

    Args:
        logits: `[K, d, h, w]`, any float dtype.
        shape: new size `(d, h, w)`.
        separate_axis: spatial axis of order 0, see `needs_separate_axis`.

    Returns:
        `[*shape]` index of the largest logit (the first of equals), uint8, or uint16 from 257 classes on.
    """
    result = np.zeros(tuple(shape), dtype=np.uint8 if logits.shape[0] <= 256 else np.uint16)
    axes = _axes(logits.shape[1:], shape, 1, separate_axis, logits.device)

    def fill(region: tuple[slice, ...]) -> None:
        blocks = [axis.block(part) for axis, part in zip(axes, region, strict=True)]
        window = logits[(slice(None), *_window(blocks))]
        beaten = window.amax((1, 2, 3)) < window.amin((1, 2, 3)).max()  # nobody is where there is a NaN
        candidates = torch.nonzero(~beaten).flatten()
        if len(candidates) == 1:
            result[region] = int(candidates)
            return
        tile = _interpolate(window[candidates].float(), blocks)
        result[region] = candidates.cpu().numpy()[_index_of_largest(tile).cpu().numpy()]

    _for_each(fill, _tiles(axes, 1))
    return result


@dataclass(frozen=True)
class _Block:
    """Part of one axis: `weights` `[outputs, stop - start]` on the inputs `start:stop`, None where nothing changes."""

    start: int
    stop: int
    weights: torch.Tensor | None


class _Axis:
    """How the outputs of one axis depend on its inputs."""

    def __init__(self, n_in: int, n_out: int, order: int, shift: float, device: torch.device | None) -> None:
        self.n_in, self.n_out, self.order, self.device = n_in, n_out, order, device
        self.centres = (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5 + shift
        self.nearest = torch.from_numpy(np.clip(np.floor(self.centres + 0.5).astype(np.int64), 0, n_in - 1))
        self._blocks: dict[tuple[int, int], _Block] = {}

    def block(self, part: slice) -> _Block:
        key = (part.start, part.stop)
        if key not in self._blocks:
            self._blocks[key] = self._make(part)
        return self._blocks[key]

    def _make(self, part: slice) -> _Block:
        if self.n_in == self.n_out:
            return _Block(part.start, part.stop, None)
        taps, weights = _taps(self.centres[part], self.order)
        # an index beyond the border means the border voxel: this is the edge padding
        taps = np.clip(taps, 0, self.n_in - 1)
        start, stop = int(taps.min()), int(taps.max()) + 1
        matrix = np.zeros((len(taps), stop - start))
        np.add.at(matrix, (np.arange(len(taps))[:, None], taps - start), weights)
        return _Block(start, stop, torch.from_numpy(matrix.astype(np.float32)).to(self.device))


def _taps(centres: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs that each output reads and their weights, `[outputs, taps]`, on an unlimited axis."""
    if order == 0:
        return np.floor(centres + 0.5).astype(np.int64)[:, None], np.ones((len(centres), 1))
    first = np.floor(centres).astype(np.int64)
    fraction = (centres - first)[:, None]
    if order == 1:
        return first[:, None] + np.arange(2), np.concatenate([1 - fraction, fraction], axis=1)
    # Cubic B-spline through the samples: coefficients are the samples filtered by sqrt(3) * pole ** |k| (Unser 1999),
    # the value is four coefficients weighted by the spline. Both steps in one set of weights:
    steps = np.arange(1 - _SPLINE_REACH, _SPLINE_REACH + 1)
    weights = np.zeros((len(centres), len(steps)))
    for knot in range(-1, 3):
        weights += _cubic_spline(fraction - knot) * math.sqrt(3.0) * _POLE ** np.abs(steps - knot)
    return first[:, None] + steps, weights / weights.sum(axis=1, keepdims=True)


def _cubic_spline(distance: np.ndarray) -> np.ndarray:
    d = np.abs(distance)
    return np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.where(d < 2, (2 - d) ** 3 / 6, 0.0))


def _fill_channel(volume: torch.Tensor, out: torch.Tensor, separate_axis: int | None) -> None:
    axes = _axes(volume.shape, out.shape, 3, separate_axis)
    reduced = tuple(axis for axis in range(3) if axis != separate_axis)
    low, high = volume.amin(reduced, keepdim=True), volume.amax(reduced, keepdim=True)

    def fill(region: tuple[slice, ...]) -> None:
        blocks = [axis.block(part) for axis, part in zip(axes, region, strict=True)]
        tile = _interpolate(volume[_window(blocks)][None], blocks)[0]
        if separate_axis is None:
            tile.clamp_(low, high)
        else:
            slices = axes[separate_axis].nearest[region[separate_axis]]
            tile.clamp_(low.index_select(separate_axis, slices), high.index_select(separate_axis, slices))
        out[region] = tile

    _for_each(fill, _tiles(axes, 3))


def _axes(
    shape: Sequence[int],
    new_shape: Sequence[int],
    order: int,
    separate_axis: int | None,
    device: torch.device | None = None,
    shift: float = 0.0,
) -> list[_Axis]:
    sizes = zip(shape, new_shape, strict=True)
    orders = [0 if axis == separate_axis else order for axis in range(len(shape))]
    return [_Axis(a, b, order, shift, device) for (a, b), order in zip(sizes, orders, strict=True)]


def _tiles(axes: Sequence[_Axis], order: int) -> Iterator[tuple[slice, ...]]:
    """Regions that cover the output; smaller when shrinking, so that their windows stay small too."""
    parts = []
    for axis, size in zip(axes, _TILE[order], strict=True):
        step = max(1, int(size * min(1.0, axis.n_out / axis.n_in)))
        parts.append([slice(start, min(start + step, axis.n_out)) for start in range(0, axis.n_out, step)])
    return product(*parts)


def _for_each(work: Callable[[tuple[slice, ...]], None], regions: Iterable[tuple[slice, ...]]) -> None:
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


def _window(blocks: Sequence[_Block]) -> tuple[slice, ...]:
    return tuple(slice(block.start, block.stop) for block in blocks)


def _interpolate(window: torch.Tensor, blocks: Sequence[_Block]) -> torch.Tensor:
    """`[K, *inputs]` float32 to `[K, *outputs]`."""
    work = [(axis, block.weights) for axis, block in enumerate(blocks, start=1) if block.weights is not None]
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
