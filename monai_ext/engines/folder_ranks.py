"""Which processes see the same folder, and how they share the work that is written there.

On one machine, or with the folder on a shared disk, these are all of them. Where every machine has a disk of its own,
those of a machine: each machine then gets files of its own, made by its own processes.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from monai_ext.atomic_files import partial_name
from monai_ext.engines import process_group
from monai_ext.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class FolderRanks:
    """The processes that see a folder as this one does.

    All methods but `share` are to be called by every process of the training, whichever folder it sees.

    Attributes:
        ranks: their numbers, ascending, this process's own among them.
        rank: number of this process.
    """

    ranks: tuple[int, ...] = (0,)
    rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == self.ranks[0]

    def share(self, items: Sequence[T]) -> list[T]:
        """Of items that all these processes know, every one for one of them."""
        return list(items[self.ranks.index(self.rank) :: len(self.ranks)])

    def of_first(self, function: Callable[[], T]) -> T:
        """Call a function on the first of these processes while the others wait; its result, on all of them.

        Raises:
            Exception: whatever the function raised, on one process; `SystemExit` on all others.
        """
        result = process_group.together(lambda: function() if self.is_first else None)
        results: list[Any] = process_group.gather(result)
        return results[self.ranks[0]]

    def first_alone(self, function: Callable[[], object]) -> None:
        """Call a function on the first of these processes while the others wait; nothing is returned.

        Raises:
            Exception: whatever the function raised, on one process; `SystemExit` on all others.
        """
        process_group.together(lambda: function() if self.is_first else None)


def ranks_of_folder(folder: str | Path) -> FolderRanks:
    """Find out by small files which processes see the same folder, which is made for that; alone, nothing is done.

    Where nothing can be written, the processes of one machine count as those that see the same.

    Args:
        folder: of this process; to be called by all processes at once.

    Raises:
        InputError: the folder cannot be made.
    """
    folder = Path(folder)
    if not process_group.running():
        return FolderRanks()
    process_group.together(lambda: _make(folder))
    mark = partial_name(folder / f"seen-{process_group.rank()}")  # of a killed process, `remove_partials` removes it
    try:
        written = _touched(mark)
        marks = process_group.gather(mark.name if written else "")
        lowest = next((number for number, name in enumerate(marks) if name and (folder / name).exists()), None)
        place = _machine() if lowest is None else f"mark {lowest}"
        places = process_group.gather(place)  # nobody removes his file before all have looked
    finally:
        with contextlib.suppress(OSError):
            mark.unlink(missing_ok=True)
    return FolderRanks(tuple(n for n, other in enumerate(places) if other == place), process_group.rank())


def require_common_folder(folder: str | Path, key: str) -> None:
    """Refuse a folder that lies on another disk on every machine, where results of all processes must come together.

    Raises:
        InputError: not all processes see the same folder; one says so, `SystemExit` on all others.
    """
    if not process_group.running():
        return
    seen = ranks_of_folder(folder)

    def check() -> None:
        if len(seen.ranks) < process_group.world_size():
            listed = ", ".join(map(str, seen.ranks))
            raise InputError(
                f"--{key} {folder}: ranks {listed} of {process_group.world_size()} see another folder of this name "
                f"than the rest. Cure: a folder on a disk that all machines share (--store_dir may be local)"
            )

    process_group.together(check)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}). Cure: another folder, or its rights") from error


def _touched(mark: Path) -> bool:
    try:
        mark.touch()
    except OSError:
        return False
    return True


def _machine() -> str:
    return f"machine {os.environ.get('GROUP_RANK', '')} {socket.gethostname()}"
