"""Files that are either complete or absent: written beside their place, synced, then renamed.

Files get the permissions that the umask of the process gives. After a loss of power a file is there as it was before or
as it is afterwards: its content is synced before the rename, its folder after it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai_ext.errors import InputError
from monai_ext.expected_folders import FolderGoneError, check_folder

logger = logging.getLogger(__name__)
PARTIAL = re.compile(r"\.[0-9a-f]{8}-")
# what a library that writes the partial file meets through no fault of its own
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
# file systems that cannot sync a folder say one of these; EACCES: a folder that may be written but not listed
NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES, errno.EPERM}
# those without hard links (FAT, some network shares) one of these
NO_HARD_LINK = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}


@contextmanager
def replacing(path: str | Path, previous: Path | None = None) -> Iterator[Path]:
    """Yield a temporary name beside `path` with the same ending; on success it replaces `path`, on failure it goes.

    The last good file is never removed before the new one is complete. With `previous`, a name in the same folder, the
    file that is replaced stays under that name; on file systems without hard links a kill may leave it only there.

    Raises:
        InputError: the disk is full, read-only or out of quota, the file larger than the process may write, or the
            folder not to be written.
    """
    path = Path(path)
    with explained(path):
        make_folder(path.parent)
    partial = partial_name(path)
    second = partial_name(previous) if previous is not None else None
    try:
        with explained(path, partial, only=NO_ROOM):
            yield partial
        with explained(path):
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            _replace(path, partial, previous, second)
            sync_folder(path.parent)
    finally:
        for left in filter(None, (partial, second)):
            # a disk that became read-only must not hide the error that says so
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)


def partial_name(path: Path) -> Path:
    """A new temporary name beside `path`, one that `remove_partials` finds."""
    return path.with_name(f".{secrets.token_hex(4)}-{path.name}")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, so that they outlast a loss of power.

    Raises:
        FolderGoneError: a run writes there, and it was removed meanwhile, see `expected_folders`.
    """
    check_folder(folder)
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_folder(place.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a loss of power, where system and file system can do that."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows, where a folder cannot be opened
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise


def remove_partials(folder: str | Path) -> None:
    """Remove what a killed process left of unfinished files; call where nobody else is writing."""
    for path in Path(folder).glob(".*"):
        if PARTIAL.match(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text with Unix line ends."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_cache(path: str | Path, text: str) -> None:
    """Write what a later run can find out again: where the disk is full or read-only, say so and go on."""
    try:
        write_text(path, text)
    except FolderGoneError:
        raise
    except InputError as error:
        logger.warning("%s; a later run does this work again", str(error).split("; ")[0])


def append_text(path: str | Path, text: str) -> None:
    """Append UTF-8 text with Unix line ends to a file; all of it or, unless this process is killed, nothing.

    Raises:
        InputError: as `replacing`.
    """
    path = Path(path)
    with explained(path):
        make_folder(path.parent)
        with path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            content = text.encode()
            try:
                while content:  # the last bytes before a full disk are written, what remains is refused
                    content = content[file.write(content) :]
            except OSError:
                file.truncate(size)
                raise


def save_tensors(path: str | Path, content: Any, previous: Path | None = None) -> None:
    """`torch.save` with a checksum inside the file; `content` must be loadable with `weights_only=True`.

    `previous` is the name under which the file that is replaced stays.
    """
    from monai_ext.archive_checksum import write_archive

    with replacing(path, previous) as partial, partial.open("wb") as file:
        write_archive(file, content)


def _replace(path: Path, partial: Path, previous: Path | None, second: Path | None) -> None:
    if previous is None or second is None or not path.exists():
        os.replace(partial, path)
        return
    try:
        # a second name for the old file first: whenever a kill comes, `path` and one complete file more are there
        os.link(path, second)
    except OSError as error:
        if error.errno not in NO_HARD_LINK:
            raise
        os.replace(path, previous)
        os.replace(partial, path)
        return
    os.replace(partial, path)
    os.replace(second, previous)


@contextmanager
def explained(path: Path, partial: Path | None = None, only: Collection[int] | None = None) -> Iterator[None]:
    """What the system says about a write as an error that a person can act on.

    With `only`, just these error numbers and what is said of `partial` itself: the rest may be about other files.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError):  # the body's affair, unless the folder was removed meanwhile
            tell = not path.parent.exists()
        else:
            own = partial is not None and isinstance(error.filename, str) and Path(error.filename) == partial
            unnumbered = type(error) is OSError and error.errno is None  # numpy's and Pillow's, of a full disk
            tell = only is None or error.errno in only or own or unnumbered
        if not tell:
            raise
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}{_free_space(path)}); what was complete is kept. "
            "Cure: free space or another place, then the same command again (a training: with --resume True)"
        ) from error


def _free_space(path: Path) -> str:
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return ""
    return f", {free / 1e6:.0f} MB free"
