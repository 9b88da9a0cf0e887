"""Reading the next case and writing the last one while the network works on the present one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class ReadAhead:
    """Iterates over a loader, whose next item a thread is already making.

    One item waits at most, so that memory holds two cases, not the dataset. Items keep their order; an error of the
    loader is raised where its item would have come.

    Args:
        loader: an iterable with a length.
        enabled: False iterates as usual.
    """

    def __init__(self, loader: Any, enabled: bool = True) -> None:
        if not isinstance(loader, Sized) or not isinstance(loader, Iterable):
            raise ValueError(f"loader must have a length and be iterable, got {type(loader).__name__}")
        self.loader = loader
        self.enabled = enabled

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        if not self.enabled:
            yield from self.loader
            return
        end = object()
        items = iter(self.loader)
        with ThreadPoolExecutor(1, "read-ahead") as thread:
            waiting = thread.submit(next, items, end)
            while (item := waiting.result()) is not end:
                waiting = thread.submit(next, items, end)
                yield item


class WriteBehind:
    """Does work in the order given, in one background thread.

    A new piece of work waits until the one before the last is done, so that results do not pile up in memory. An error
    is raised at the next call.

    Args:
        enabled: False does the work at once, in the thread of the caller.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._thread = ThreadPoolExecutor(1, "write-behind") if enabled else None
        self._pending: Future[None] | None = None

    def do(self, work: Callable[[], None]) -> None:
        """Do `work`, now or soon."""
        if self._thread is None:
            work()
            return
        self.wait()
        self._pending = self._thread.submit(work)

    def wait(self) -> None:
        """Return when all work is done.

        Raises:
            Exception: whatever the work raised.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
