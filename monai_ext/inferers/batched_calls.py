"""Calls of a network on windows of a volume, in batches as large as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor

from monai_ext.inferers.memory_fallback import MemoryFallback

Cut = tuple[torch.Tensor, tuple[int, ...]]  # view [C, *roi] of the volume, spatial axes along which to mirror it


class BatchedCalls:
    """Copies windows together and calls the network on them.

    Where the network runs out of memory the batch is halved, down to single windows; then `release` may free memory
    elsewhere. A failed batch is copied anew from the volume, since the network may have begun to change it.

    Args:
        network: maps `[N, C, *roi]` to `[N, K, *roi]`, or to a list or tuple that starts with that.
        batch_size: windows per call.
        reuse: copy every full batch into the same memory; with gradients each must stay as it was.
        release: called when a single window is too much; tells whether it could free memory.
        fallback: reports what was done.
    """

    def __init__(
        self,
        network: Callable[[torch.Tensor], Any],
        batch_size: int,
        reuse: bool,
        release: Callable[[], bool],
        fallback: MemoryFallback,
    ) -> None:
        self.limit = batch_size
        self._network = network
        self._reuse = reuse
        self._release = release
        self._fallback = fallback
        self._buffer: torch.Tensor | None = None

    def __call__(self, cuts: Sequence[Cut]) -> list[torch.Tensor]:
        """Outputs `[K, *roi]` of up to `batch_size` windows, mirrored as these are; valid until the next call.

        Raises:
            ValueError: the network returns another size.
            torch.OutOfMemoryError: one window is too much, and nothing could be released.
        """
        outputs: list[torch.Tensor] = []
        while len(outputs) < len(cuts):
            batch = cuts[len(outputs) : len(outputs) + self.limit]
            found = self._attempt(batch)
            if isinstance(found, torch.Tensor):
                outputs += found.unbind(0)
            else:
                self._shrink(len(batch), batch[0][0].device, found)
        return outputs

    def _attempt(self, cuts: Sequence[Cut]) -> torch.Tensor | torch.OutOfMemoryError:
        try:
            windows = self._copied(cuts)
            outputs = self._network(windows)
        except torch.OutOfMemoryError as error:
            return error.with_traceback(None)  # the traceback would keep the network's tensors alive
        if isinstance(outputs, (list, tuple)):
            outputs = outputs[0]
        size = tuple(windows.shape)
        if outputs.ndim != len(size) or (outputs.shape[0], *outputs.shape[2:]) != (size[0], *size[2:]):
            raise ValueError(
                f"the network must return [{size[0]}, K, {', '.join(map(str, size[2:]))}] for an input of shape "
                f"{size}, got {tuple(outputs.shape)}"
            )
        return outputs.as_tensor() if isinstance(outputs, MetaTensor) else outputs

    def _copied(self, cuts: Sequence[Cut]) -> torch.Tensor:
        """Windows `[N, C, *roi]`: the network can neither change the volume nor see strides that vary with its size."""
        views = [view.flip([axis + 1 for axis in flip]) if flip else view for view, flip in cuts]
        if not self._reuse:
            return torch.stack(views)
        if self._buffer is None:
            self._buffer = views[0].new_empty((self.limit, *views[0].shape))
        for n, view in enumerate(views):
            self._buffer[n].copy_(view)
        return self._buffer[: len(views)]

    def _shrink(self, count: int, device: torch.device, error: torch.OutOfMemoryError) -> None:
        # several calls now make up what the caller holds at a time, and a network may return its input
        self._reuse, self._buffer = False, None
        if count > 1:
            self.limit = count // 2
            self._fallback.report(
                f"out of memory on {device} with {count} windows per call: going on with {self.limit}"
            )
        elif not self._release():
            raise error
        if device.type == "cuda":
            torch.cuda.empty_cache()
