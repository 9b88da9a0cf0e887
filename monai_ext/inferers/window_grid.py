"""Which windows predict a volume, in which order, and which voxels each of them is the first or the last to touch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, product
from math import prod
from typing import Any, NamedTuple

import torch

from monai_ext.inferers.window_positions import window_positions
from monai_ext.inferers.windows import shared_weights

Place = tuple[int, ...]  # number of the window along each axis


class WindowCopy(NamedTuple):
    """One mirrored copy of one window.

    Attributes:
        item: of the batch.
        place: number of the window along each axis.
        flip: spatial axes (0 is the first) along which it is mirrored.
        is_first: no other copy of this window comes before.
    """

    item: int
    place: Place
    flip: tuple[int, ...]
    is_first: bool


class WindowGrid:
    """Windows in ascending order of their starts, the last axis fastest.

    What the windows of earlier places have touched, and what those of later places will touch, is known per axis. So
    sums need not be zeroed beforehand, and what is final can be used while it is still in the cache.

    Args:
        shape: voxels of the volume per axis.
        roi_size: of a window; the volume is thought to be padded to it where it is smaller, on both sides.
        overlap: shared fraction of neighbouring windows, in [0, 1).
        blend: `gaussian` or `constant`.
        copies: mirrored copies of every window.
    """

    def __init__(
        self, shape: Sequence[int], roi_size: Sequence[int], overlap: float, blend: str, copies: int = 1
    ) -> None:
        self.shape = tuple(shape)
        self.roi_size = tuple(roi_size)
        self.missing = tuple(max(roi - size, 0) for roi, size in zip(roi_size, shape, strict=True))
        self.padded_shape = tuple(size + n for size, n in zip(self.shape, self.missing, strict=True))
        # starts in the padded volume
        self.positions = window_positions(self.padded_shape, self.roi_size, overlap)
        weights = shared_weights(self.padded_shape, self.roi_size, self.positions, blend, copies)
        self._weights = {torch.device("cpu"): weights}
        axes = list(zip(self.positions, self.missing, self.roi_size, self.shape, strict=True))
        # per axis and window: first voxel in the volume, first one that no earlier window reaches
        self._starts = [[first - n // 2 for first in starts] for starts, n, _, _ in axes]
        self._fresh = [
            [0, *(first + roi for first in starts[:-1])]
            for starts, (_, _, roi, _) in zip(self._starts, axes, strict=True)
        ]
        self._edges = [[0, *starts[1:], size] for starts, (_, _, _, size) in zip(self._starts, axes, strict=True)]

    @property
    def places(self) -> Iterable[Place]:
        """Every place, in order."""
        return product(*(range(len(starts)) for starts in self.positions))

    @property
    def num_windows(self) -> int:
        return prod(len(starts) for starts in self.positions)

    def padded_start(self, place: Place) -> tuple[int, ...]:
        """First voxel of the window in the padded volume."""
        return tuple([starts[i] for starts, i in zip(self.positions, place, strict=True)])

    def start(self, place: Place) -> tuple[int, ...]:
        """First voxel of the window in the volume; negative where the window begins in the padding."""
        return tuple([starts[i] for starts, i in zip(self._starts, place, strict=True)])

    def reach(self, place: Place) -> tuple[slice, ...]:
        """Voxels of the volume in the window."""
        return tuple(
            slice(max(first, 0), min(first + roi, size))
            for first, roi, size in zip(self.start(place), self.roi_size, self.shape, strict=True)
        )

    def fresh(self, place: Place) -> tuple[int, ...]:
        """Where all coordinates are at least these, no window before this one has been."""
        return tuple([fresh[i] for fresh, i in zip(self._fresh, place, strict=True)])

    def final(self, place: Place) -> tuple[slice, ...]:
        """Box of voxels that this window is the last to touch; these boxes make up the volume."""
        return tuple(slice(edges[i], edges[i + 1]) for edges, i in zip(self._edges, place, strict=True))

    def blending(self, copies: Sequence[WindowCopy], device: torch.device) -> dict[str, Any]:
        """Arguments of `monai_ext.ops.gaussian_blend.accumulate` for windows of one batch item."""
        return {
            "weights": [
                _rows(axis, [copy.place[n] for copy in copies]) for n, axis in enumerate(self._weights_on(device))
            ],
            "starts": [self.start(copy.place) for copy in copies],
            "flips": [copy.flip for copy in copies],
            "fresh": [self.fresh(copy.place) if copy.is_first else self.shape for copy in copies],
        }

    def _weights_on(self, device: torch.device) -> list[torch.Tensor]:
        if device not in self._weights:
            self._weights[device] = [axis.to(device) for axis in self._weights[torch.device("cpu")]]
        return self._weights[device]


def runs(
    copies: Sequence[WindowCopy], outputs: Sequence[torch.Tensor], key: Callable[[WindowCopy], Any]
) -> Iterator[tuple[list[WindowCopy], list[torch.Tensor]]]:
    """Neighbours that have the same key, and their outputs."""
    if len(copies) == 1:
        yield list(copies), list(outputs)
        return
    for _, run in groupby(zip(copies, outputs, strict=True), lambda pair: key(pair[0])):
        pairs = list(run)
        yield [copy for copy, _ in pairs], [output for _, output in pairs]


def _rows(weights: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
    """Rows `[N, roi]` of `[n, roi]`, or the one row `[roi]` that all windows share."""
    if numbers.count(numbers[0]) == len(numbers):
        return weights[numbers[0]]
    return torch.stack([weights[n] for n in numbers])  # an index would have to be copied to the device
