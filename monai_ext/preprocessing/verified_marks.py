"""Which stored cases have been compared with their checksums, known to all workers that a process has forked."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Sequence
from typing import Any

_BYTES = 8  # of a mark; all zero is none


class VerifiedMarks:
    """A mark per case, in memory that forked loader workers share, so that one of them reads a case for all.

    A copy that was pickled, for a worker that is started anew, has no marks.

    Args:
        names: of the cases.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._places = {name: number * _BYTES for number, name in enumerate(self._names)}
        self._shared = mmap.mmap(-1, max(1, len(self._names)) * _BYTES)

    def has(self, name: str, state: object) -> bool:
        """Whether a case was marked in this state of its files."""
        place = self._places.get(name)
        return place is not None and self._shared[place : place + _BYTES] == _mark(state)

    def add(self, name: str, state: object) -> None:
        """Mark a case; one that is not listed stays without."""
        place = self._places.get(name)
        if place is not None:
            self._shared[place : place + _BYTES] = _mark(state)

    def __reduce__(self) -> tuple[Any, ...]:
        return VerifiedMarks, (self._names,)


def _mark(state: object) -> bytes:
    return hashlib.blake2b(repr(state).encode(), digest_size=_BYTES).digest()
