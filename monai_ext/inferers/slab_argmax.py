"""Labels from overlapping windows without ever holding the scores of the whole volume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


class SlabArgmax:
    """Blends window outputs that arrive in order along the first axis, and labels rows as soon as they are final.

    A row that starts before the newest window is touched by no later one: its argmax is taken and its place is reused.
    So the scores of one window height suffice; they live in a ring in which row `r` has place `r % rows`.

    The weighted sums are not divided by the summed weights: at each voxel that is one positive factor for all classes,
    which leaves the argmax as it is.

    Args:
        labels: `[D, ...]` integer tensor that receives the labels; every row must be covered by a window.
        rows: window size along the first axis.

    Attributes:
        buffer: `[K, rows, ...]` float32 ring, None before the first window.
    """

    def __init__(self, labels: torch.Tensor, rows: int) -> None:
        self.labels = labels
        self.rows = rows
        self.buffer: torch.Tensor | None = None
        self._first = 0  # first row that is not labelled yet

    def add(self, start: Sequence[int], output: torch.Tensor, weights: torch.Tensor) -> None:
        """Add the output `[K, *window]` of the window at `start`, weighted by `[*window]` float32.

        Raises:
            ValueError: `start[0]` is smaller than that of an earlier window.
        """
        if start[0] < self._first:
            raise ValueError(f"windows must come in ascending order, got first row {start[0]} after {self._first}")
        if self.buffer is None:
            shape = (output.shape[0], self.rows, *self.labels.shape[1:])
            self.buffer = torch.zeros(shape, dtype=torch.float32, device=self.labels.device)
        if start[0] > self._first:
            self._label_rows(start[0])
        across = tuple(slice(s, s + n) for s, n in zip(start[1:], output.shape[2:], strict=True))
        for place, row in self._pieces(start[0], start[0] + self.rows):
            inside = slice(row.start - start[0], row.stop - start[0])
            self.buffer[(slice(None), place, *across)].addcmul_(output[:, inside], weights[inside])

    def finish(self) -> None:
        """Label the rows that are left."""
        self._label_rows(self.labels.shape[0])

    def _label_rows(self, stop: int) -> None:
        assert self.buffer is not None
        for place, row in self._pieces(self._first, stop):
            # on a CPU max is several times faster than argmax; both return the first of equal values
            self.labels[row] = self.buffer[:, place].max(0).indices
            self.buffer[:, place].zero_()
        self._first = stop

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Contiguous pieces of at most `rows` rows from `start` to `stop`: place in the ring, rows of the volume."""
        while start < stop:
            place = start % self.rows
            count = min(self.rows - place, stop - start)
            yield slice(place, place + count), slice(start, start + count)
            start += count
