"""What to do when a device runs out of memory: smaller batches, then sums on the host."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from monai_ext.inferers.huge_pages import on_huge_pages

_LOG = logging.getLogger(__name__)
HOST = torch.device("cpu")


class MemoryFallback:
    """Remembers which fallbacks have been reported, so that each is logged once and not once a volume."""

    def __init__(self) -> None:
        self._reported: set[str] = set()

    def empty(self, size: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Uninitialised tensor on `device`, or on the CPU where `device` has no memory left.

        Raises:
            torch.OutOfMemoryError: `device` is the CPU.
        """
        try:
            return on_huge_pages(torch.empty(tuple(size), dtype=dtype, device=device))
        except torch.OutOfMemoryError:
            if device == HOST:
                raise
        self.report(f"out of memory on {device}: the result of {tuple(size)} is made on the CPU, which is slower")
        return on_huge_pages(torch.empty(tuple(size), dtype=dtype, device=HOST))

    def report(self, message: str) -> None:
        """Log a warning unless it has been logged."""
        if message not in self._reported:
            self._reported.add(message)
            _LOG.warning(message)
