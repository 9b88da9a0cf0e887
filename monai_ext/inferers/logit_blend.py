"""Logits of a volume, blended from windows straight into the result."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.inferers.memory_fallback import HOST, MemoryFallback
from monai_ext.inferers.window_grid import WindowCopy, WindowGrid, runs
from monai_ext.ops.gaussian_blend import accumulate


class LogitBlend:
    """Sums of window outputs whose weights add up to one, so that the sums are the logits.

    The first window at a voxel overwrites it; nothing is zeroed before nor divided after.

    Args:
        grid: of the windows, which must come in its order.
        items: of the batch.
        device: of the result; the CPU takes over where it runs out of memory.
        fallback: reports that.

    Attributes:
        logits: `[items, K, *S]` float32, None before the first window.
    """

    def __init__(self, grid: WindowGrid, items: int, device: torch.device, fallback: MemoryFallback) -> None:
        self.logits: torch.Tensor | None = None
        self._grid = grid
        self._items = items
        self._device = device
        self._fallback = fallback

    def add(self, copies: Sequence[WindowCopy], outputs: Sequence[torch.Tensor]) -> None:
        """Add windows, outputs `[K, *roi]`, mirrored as the copies are."""
        if self.logits is None:
            size = (self._items, outputs[0].shape[0], *self._grid.shape)
            self.logits = self._fallback.empty(size, torch.float32, self._device)
        device = self.logits.device
        for run, found in runs(copies, outputs, lambda copy: copy.item):
            here = [output.to(device) for output in found]
            accumulate(self.logits[run[0].item], here, **self._grid.blending(run, device))

    def result(self) -> torch.Tensor:
        """The logits `[items, K, *S]` float32, after the last window."""
        assert self.logits is not None
        return self.logits

    def move_to_host(self) -> bool:
        """Free the memory of the device; False if there is nothing on it."""
        if self._device == HOST or (self.logits is not None and self.logits.device == HOST):
            return False
        self._device = HOST
        if self.logits is not None:
            self.logits = self.logits.to(HOST)
        return True
