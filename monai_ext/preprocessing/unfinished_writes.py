"""What a store holds of cases that are unfinished, or perhaps not on the disk yet, and how a later run tidies up."""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path

from monai_ext.atomic_files import sync_folder
from monai_ext.preprocessing.storage_errors import storage_error

_HIDDEN = ".unfinished-"
_UNSYNCED = "unsynced"
_STALE_SECONDS = 24 * 3600


class UnsyncedWrites:
    """Cases written in this context are on the disk at its end, not only in the memory of the system.

    Waiting for the disk after every file costs more than preparing a small case (4 ms a file, measured). So a marker
    is put into the folder first, then cases are written, then all are synced at once, then the marker goes. Where
    `found` tells of a marker, a run did not come to its end, perhaps for want of power: the checksums then decide
    which cases are whole.

    Args:
        folder: of the store.

    Attributes:
        found: another run's marker was there, and its process is not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._marker = unfinished_name(folder, _UNSYNCED)
        self._left = [path for path in folder.glob(f"{_HIDDEN}*{_UNSYNCED}") if _is_abandoned(path)]
        self.found = bool(self._left)

    def begin(self) -> None:
        """Put the marker; to be called before the first case is written.

        Raises:
            StorageError: no space left, or no right to write.
        """
        try:
            self._marker.write_bytes(b"")
            sync_file(self._marker)
            sync_folder(self.folder)
        except OSError as error:
            raise storage_error(error, self.folder, "the first case", 0) from error

    def end(self) -> None:
        """Sync what was written, if anything was, and take the markers away."""
        if not self._marker.exists() and not self._left:
            return
        if hasattr(os, "sync"):
            os.sync()
        else:
            for path in self.folder.glob("*/*"):
                sync_file(path)
        for path in (self._marker, *self._left):
            path.unlink(missing_ok=True)


def has_leftovers(folder: Path) -> bool:
    """Whether killed runs left something behind; the mark of unsynced writes counts."""
    return any(_is_abandoned(path) for path in [*folder.glob(f"{_HIDDEN}*"), *folder.glob(f"*/{_HIDDEN}*")])


def remove_leftovers(folder: Path) -> list[str]:
    """Delete what killed runs left behind, but nothing that a running one may be writing; return the names."""
    removed = []
    for path in [*folder.glob(f"{_HIDDEN}*"), *folder.glob(f"*/{_HIDDEN}*")]:
        if _is_abandoned(path) and not path.name.endswith(_UNSYNCED):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            removed.append(path.name)
    return removed


def unfinished_name(folder: Path, name: str) -> Path:
    """Where this process writes something that will be called `name` in a folder."""
    return folder / f"{_HIDDEN}{socket.gethostname()}-{os.getpid()}-{name}"


def _is_abandoned(path: Path) -> bool:
    try:
        if time.time() - path.stat().st_mtime > _STALE_SECONDS:
            return True
    except FileNotFoundError:
        return False
    prefix = f"{_HIDDEN}{socket.gethostname()}-"
    pid = path.name.removeprefix(prefix).split("-")[0]
    if not path.name.startswith(prefix) or not pid.isdigit():
        return False  # perhaps of another machine on the same disk
    if int(pid) == os.getpid():
        return True  # the caller has not begun to write
    if os.name != "posix":
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
