"""Labels from overlapping windows without ever holding the scores of the whole volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from monai_ext.inferers.memory_fallback import HOST, MemoryFallback
from monai_ext.inferers.window_grid import Place, WindowCopy, WindowGrid, runs
from monai_ext.ops.gaussian_blend import accumulate, finalise


class SlabArgmax:
    """Blends window outputs that arrive in the order of their grid, and labels what no later window touches.

    Scores are kept for lines along the last axis. A line is needed from the first row of windows that touches it to
    the last one; then its labels are taken and its memory serves another line. That is less than one window height of
    the volume, and does not grow with its first axis.

    Args:
        grid: of the windows, which must come in its order.
        items: of the batch.
        device: of scores and labels; the CPU takes over where it runs out of memory.
        fallback: reports that.

    Attributes:
        store: `[L, K, W]` float32, the lines in use or free; None before the first window.
        labels: `[items, *S]` uint8, or int16 if there are more than 255 classes; None before the first window.
    """

    def __init__(self, grid: WindowGrid, items: int, device: torch.device, fallback: MemoryFallback) -> None:
        self.store: torch.Tensor | None = None
        self.labels: torch.Tensor | None = None
        self._grid = grid
        self._items = items
        self._device = device
        self._fallback = fallback
        self._lead, self._trail = _flat_axes(len(grid.shape))
        self._row: tuple[int, Place] | None = None  # item and place, along all axes but the last, of the open windows
        self._lines: torch.Tensor  # [D, H] int32: place of each line in the store, -1 for none
        self._free: torch.Tensor  # [L] int32: a stack of the places that are not in use
        self._num_free = 0

    def add(self, copies: Sequence[WindowCopy], outputs: Sequence[torch.Tensor]) -> None:
        """Add windows, outputs `[K, *roi]`, mirrored as the copies are.

        Raises:
            ValueError: windows do not come in the order of their grid, or there is only one class.
        """
        if self.store is None:
            self._allocate(outputs[0].shape[0])
        assert self.store is not None
        device = self.store.device
        for run, found in runs(copies, outputs, lambda copy: (copy.item, self._row_of(copy.place))):
            row = (run[0].item, self._row_of(run[0].place))
            if row != self._row:
                self._open(row, run[0].place)
            here = [self._in_three(output.detach().to(device)) for output in found]
            accumulate(self.store, here, lines=self._lines, **self._extended(self._grid.blending(run, device)))

    def result(self) -> torch.Tensor:
        """Labels `[items, *S]`, after the last window."""
        self._close()
        assert self.labels is not None
        return self.labels

    def move_to_host(self) -> bool:
        """Free the memory of the device; False if there is nothing on it."""
        if self._device == HOST or (self.store is not None and self.store.device == HOST):
            return False
        self._device = HOST
        if self.store is not None:
            assert self.labels is not None
            self.store, self.labels = self.store.to(HOST), self.labels.to(HOST)
            self._lines, self._free = self._lines.to(HOST), self._free.to(HOST)
        return True

    def _allocate(self, num_classes: int) -> None:
        if num_classes < 2:
            raise ValueError(f"segment needs a network with two or more output channels, got {num_classes}")
        depth, height, width = self._extent
        size = (self._most_lines(), num_classes, width)
        dtype = torch.uint8 if num_classes <= 255 else torch.int16
        labels = self._fallback.empty((self._items, *self._grid.shape), dtype, self._device)
        self.store = self._fallback.empty(size, torch.float32, labels.device)
        device = self.store.device
        self.labels = labels.to(device)
        self._lines = torch.full((depth, height), -1, dtype=torch.int32, device=device)
        self._free = torch.arange(size[0], dtype=torch.int32, device=device)
        self._num_free = size[0]

    def _open(self, row: tuple[int, Place], place: Place) -> None:
        """Label what the row of windows before was the last to touch, and find places for the lines of this one."""
        if self._row is not None and row < self._row:
            raise ValueError(f"windows must come in ascending order, got (item, row) {row} after {self._row}")
        self._close()
        new = self._new_lines(place)
        count = _count(new)
        self._num_free -= count
        taken = self._free[self._num_free : self._num_free + count]
        self._lines[new] = taken.view(*(part.stop - part.start for part in new))
        self._row = row

    def _close(self) -> None:
        if self._row is None:
            return
        assert self.store is not None
        assert self.labels is not None
        item, place = self._row
        done = self._final_lines(place)
        count = _count(done)
        if count:
            lines = self._lines[done]
            labels = self.labels[item].view(self._extent)[done]
            finalise(self.store, mode="argmax", labels=labels, lines=lines)
            self._free[self._num_free : self._num_free + count] = lines.flatten()
            self._num_free += count
            lines.fill_(-1)
        self._row = None

    def _most_lines(self) -> int:
        """Lines in use at any time, at most."""
        used = most = 0
        for place in self._grid.places:
            if place[-1] == 0 or len(place) == 1:
                used += _count(self._new_lines(place))
                most = max(most, used)
                used -= _count(self._final_lines(self._row_of(place)))
        return most

    def _new_lines(self, place: Place) -> tuple[slice, ...]:
        """Box `[D, H]` of lines that a row of windows is the first to touch."""
        reach, fresh = self._grid.reach(place), self._grid.fresh(place)
        box = [slice(min(max(part.start, new), part.stop), part.stop) for part, new in zip(reach, fresh, strict=True)]
        return self._two(box)

    def _final_lines(self, place: Place) -> tuple[slice, ...]:
        """Box `[D, H]` of lines that a row of windows is the last to touch."""
        missing = len(self._grid.shape) - len(place)
        return self._two(self._grid.final((*place, *[0] * missing)))

    # windows of fewer axes are flat ones of three; signals are columns of lines of one value
    @property
    def _extent(self) -> tuple[int, ...]:
        return (*[1] * self._lead, *self._grid.shape, *[1] * self._trail)

    def _row_of(self, place: Place) -> Place:
        return place if self._trail else place[:-1]

    def _two(self, box: Sequence[slice]) -> tuple[slice, ...]:
        return (*[slice(0, 1)] * self._lead, *box, *[slice(0, 1)] * self._trail)[:2]

    def _in_three(self, output: torch.Tensor) -> torch.Tensor:
        classes, *roi = output.shape
        return output.reshape(classes, *[1] * self._lead, *roi, *[1] * self._trail)

    def _extended(self, arguments: dict[str, Any]) -> dict[str, Any]:
        one = arguments["weights"][0].new_ones(1)
        before, after = [0] * self._lead, [0] * self._trail
        return {
            "weights": [*[one] * self._lead, *arguments["weights"], *[one] * self._trail],
            "starts": [(*before, *start, *after) for start in arguments["starts"]],
            "flips": [tuple(axis + self._lead for axis in flip) for flip in arguments["flips"]],
            "fresh": [(*before, *fresh, *after) for fresh in arguments["fresh"]],
        }


def _flat_axes(dims: int) -> tuple[int, int]:
    """Axes of size one to put before and after `dims` axes."""
    return {1: (1, 1), 2: (1, 0), 3: (0, 0)}[dims]


def _count(box: Sequence[slice]) -> int:
    count = 1
    for part in box:
        count *= max(part.stop - part.start, 0)
    return count
