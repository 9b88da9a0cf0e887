"""Windows of one value throughout, which need the network only once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch

Value = tuple[int, ...]  # bits of the value, per channel
KEPT = 4  # outputs; a volume may have as many even values as windows
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class EvenWindows:
    """Finds even windows and keeps the output of the network for the values seen last.

    A window of one value is the same wherever it lies and however it is mirrored, and so is the network's output for
    it, up to the rounding of other batch sizes. Bits are compared: 0 and -0 are two values, NaN is one.

    Args:
        volume: `[B, C, *S]` floating point.
        positions: starts of the windows per axis.
        roi_size: of a window.
    """

    def __init__(self, volume: torch.Tensor, positions: Sequence[Sequence[int]], roi_size: Sequence[int]) -> None:
        self._bits = volume.view(_BITS[volume.element_size()])
        self._positions = positions
        self._roi_size = tuple(roi_size)
        self._outputs: OrderedDict[Value, torch.Tensor] = OrderedDict()
        # most windows differ in a few of their voxels already; only the others are read as a whole
        corner = self._probe(0.0)
        same = (corner == self._probe(1.0)) & (corner == self._probe(0.5))
        self._candidates = same.all(1).tolist()  # one transfer from the device for all windows

    def value(self, item: int, place: Sequence[int]) -> Value | None:
        """Value of the window that has a number along each axis, None if it varies."""
        is_candidate = self._candidates[item]
        for number in place:
            is_candidate = is_candidate[number]
        if not is_candidate:
            return None
        box = [
            slice(starts[number], starts[number] + size)
            for starts, number, size in zip(self._positions, place, self._roi_size, strict=True)
        ]
        index: tuple[Any, ...] = (item, slice(None), *box)
        window = self._bits[index]
        first = window[(slice(None), *[slice(0, 1)] * len(box))]
        return tuple(first.flatten().tolist()) if torch.equal(window, first.expand_as(window)) else None

    def output(self, value: Value, call: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Output `[K, *roi]` of the network for a value; `call` computes it for one window."""
        if value not in self._outputs:
            self._outputs[value] = call().clone()
        self._outputs.move_to_end(value)
        if len(self._outputs) > KEPT:
            self._outputs.popitem(last=False)
        return self._outputs[value]

    def _probe(self, part: float) -> torch.Tensor:
        """The voxel that lies at a fraction of every window: `[B, C, n_0, n_1, ...]` bits."""
        axes = [
            torch.tensor(list(starts), device=self._bits.device) + int(part * (size - 1))
            for starts, size in zip(self._positions, self._roi_size, strict=True)
        ]
        index: tuple[Any, ...] = (slice(None), slice(None), *torch.meshgrid(*axes, indexing="ij"))
        return self._bits[index]
