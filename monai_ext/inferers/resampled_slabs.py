"""Labels on another voxel grid from overlapping windows, without ever holding the scores of the whole volume."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.inferers.memory_fallback import HOST, MemoryFallback
from monai_ext.inferers.window_grid import WindowCopy, WindowGrid, runs
from monai_ext.ops.axis_weights import axis_weights
from monai_ext.ops.gaussian_blend import accumulate
from monai_ext.ops.spline_resample import resample_logits_argmax

_ROWS_AT_ONCE = 4  # output rows that are resampled together along the first axis


def resampled_block(logits: torch.Tensor, shape: Sequence[int], separate_axis: int | None) -> torch.Tensor:
    """Labels of some rows that lie where they should along the first axis, resampled along the others.

    Args:
        logits: `[K, rows, h, w]`.
        shape: size of all labels `(D, H, W)`.
        separate_axis: axis of order 0.

    Returns:
        `[rows, H, W]` uint8, or int16 if there are more than 255 classes.
    """
    labels = resample_logits_argmax(logits, (logits.shape[1], *shape[1:]), separate_axis, as_tensor=True)
    return labels.to(label_dtype(logits.shape[0]))


def label_dtype(num_classes: int) -> torch.dtype:
    """Smallest of uint8 and int16 that holds the class numbers."""
    return torch.uint8 if num_classes <= 255 else torch.int16


class ResampledSlabs:
    """Blends window outputs that arrive in the order of their grid, and labels output rows as soon as they are final.

    Logits are kept for as many rows along the first axis as a window has, and one more: linear interpolation reads two
    rows. Along the first axis they are interpolated here, along the others by `resample_logits_argmax`.

    Args:
        grid: of the windows, three axes; they must come in its order.
        shape: size of the labels `(D, H, W)`.
        separate_axis: axis of order 0, as in `resample_logits_argmax`.
        device: of logits and labels; the CPU takes over where it runs out of memory.
        fallback: reports that.

    Attributes:
        logits: `[K, rows, h, w]` float32 of the rows from `first_row` on; None before the first window.
        labels: `[*shape]` uint8, or int16 if there are more than 255 classes; None before the first window.
        first_row: along the first axis of the volume.

    Raises:
        ValueError: the windows do not have three axes.
    """

    def __init__(
        self,
        grid: WindowGrid,
        shape: Sequence[int],
        separate_axis: int | None,
        device: torch.device,
        fallback: MemoryFallback,
    ) -> None:
        if len(grid.shape) != 3 or len(shape) != 3:
            raise ValueError(f"needs three axes, got {grid.shape} and the new size {tuple(shape)}")
        self.logits: torch.Tensor | None = None
        self.labels: torch.Tensor | None = None
        self.first_row = 0
        self._grid = grid
        self._shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        self._separate_axis = separate_axis
        self._weights = axis_weights(grid.shape[0], self._shape[0], 0 if separate_axis == 0 else 1)
        self._device = device
        self._fallback = fallback
        self._row = 0  # number of the present windows along the first axis
        self._labelled = 0  # rows of the labels that are done

    def add(self, copies: Sequence[WindowCopy], outputs: Sequence[torch.Tensor]) -> None:
        """Add windows of one volume, outputs `[K, *roi]`, mirrored as the copies are.

        Raises:
            ValueError: windows do not come in the order of their grid, or are of several volumes.
        """
        if self.logits is None:
            self._allocate(outputs[0].shape[0])
        assert self.logits is not None
        device = self.logits.device
        for run, found in runs(copies, outputs, lambda copy: (copy.item, copy.place[0])):
            if run[0].item or run[0].place[0] < self._row:
                raise ValueError(f"windows must come in ascending order and of one volume, got {run[0]}")
            if run[0].place[0] > self._row:
                self._row = run[0].place[0]
                self._label(self._grid.reach(run[0].place)[0].start)
            arguments = self._grid.blending(run, device)
            for name in ("starts", "fresh"):
                arguments[name] = [(first - self.first_row, *rest) for first, *rest in arguments[name]]
            accumulate(self.logits, [output.detach().to(device) for output in found], **arguments)

    def result(self) -> torch.Tensor:
        """Labels `[*shape]`, after the last window."""
        self._label(self._grid.shape[0])
        assert self.labels is not None
        return self.labels

    def move_to_host(self) -> bool:
        """Free the memory of the device; False if there is nothing on it."""
        if self._device == HOST or (self.logits is not None and self.logits.device == HOST):
            return False
        self._device = HOST
        if self.logits is not None:
            assert self.labels is not None
            self.logits, self.labels = self.logits.to(HOST), self.labels.to(HOST)
        return True

    def _allocate(self, num_classes: int) -> None:
        labels = self._fallback.empty(self._shape, label_dtype(num_classes), self._device)
        rows = min(self._grid.shape[0], self._grid.roi_size[0] + 1)
        size = (num_classes, rows, *self._grid.shape[1:])
        self.logits = self._fallback.empty(size, torch.float32, labels.device)
        self.labels = labels.to(self.logits.device)

    def _label(self, final: int) -> None:
        """Label what only rows before `final` decide, and drop the rows that nothing will read again."""
        first, taps = self._weights.first, self._weights.weights.shape[1]
        while self._labelled < self._shape[0] and first[self._labelled] + taps <= final:
            stop = self._labelled + 1
            most = min(self._shape[0], self._labelled + _ROWS_AT_ONCE)
            while stop < most and first[stop] + taps <= final:
                stop += 1
            self._label_rows(slice(self._labelled, stop))
            self._labelled = stop
        if self._labelled < self._shape[0]:
            self._drop_before(min(final, int(first[self._labelled])))

    def _label_rows(self, rows: slice) -> None:
        assert self.logits is not None
        assert self.labels is not None
        sources, part = self._weights.part(rows)
        kept = self.logits[:, sources.start - self.first_row : sources.stop - self.first_row]
        firsts = torch.as_tensor(part.first, device=kept.device)
        between = torch.zeros((), device=kept.device)
        for tap in range(part.taps):
            weights = torch.as_tensor(part.weights[:, tap], dtype=torch.float32, device=kept.device)
            read = kept.index_select(1, firsts + tap)
            between = between + read.mul_(weights.view(1, -1, 1, 1))
        self.labels[rows] = resampled_block(between, self._shape, self._separate_axis)

    def _drop_before(self, row: int) -> None:
        assert self.logits is not None
        dropped, kept = row - self.first_row, self.logits.shape[1] - (row - self.first_row)
        if dropped <= 0:
            return
        for number in range(max(0, kept)):  # one by one, ascending: source and target of all together overlap
            self.logits[:, number] = self.logits[:, number + dropped]
        self.first_row = row
