"""Windows of one value throughout, which need the network only once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Value = tuple[float, ...]
# batch item, start, flipped axes, the window cut out and flipped, its value per channel if it is even
WindowCopy = tuple[int, tuple[int, ...], tuple[int, ...], torch.Tensor, Value | None]


class EvenWindows:
    """Finds even windows and keeps the output of the network for each value.

    A window of one value is the same wherever it lies and however it is mirrored, and so is the network's output for
    it, up to the rounding of other batch sizes.
    """

    def __init__(self) -> None:
        self._last: tuple[int, Sequence[int]] | None = None
        self._last_value: Value | None = None
        self._windows: dict[Value, torch.Tensor] = {}
        self._outputs: dict[Value, torch.Tensor] = {}

    def value(self, item: int, start: Sequence[int], window: torch.Tensor) -> Value | None:
        """Value per channel of the window `[C, *roi]` at a place, None if it varies; flips are not read again."""
        if (item, start) != self._last:
            self._last, self._last_value = (item, start), _value_of(window)
        if self._last_value is not None:
            self._windows.setdefault(self._last_value, window)
        return self._last_value

    def output(self, value: Value, call: Callable[[Sequence[torch.Tensor]], torch.Tensor]) -> torch.Tensor:
        """Output `[K, *roi]` of the network for a value that `value` has found.

        Args:
            call: maps a list of windows `[C, *roi]` to outputs `[N, K, *roi]`.
        """
        if value not in self._outputs:
            self._outputs[value] = call([self._windows[value]])[0].clone()
        return self._outputs[value]


def _value_of(window: torch.Tensor) -> Value | None:
    flat = window.flatten(1)
    first = flat[:, :1]
    # most windows differ in their outermost voxels already; only the others are read as a whole
    if bool((flat[:, -1:] != first).any()) or not bool((flat == first).all()):
        return None
    return tuple(first[:, 0].tolist())
