"""Folders that must stay where they are: while a run writes into one, its removal is an error, not a reason to make it.

Making it anew in the middle of a run would hide that what the run had written there is gone.
"""

from __future__ import annotations

from pathlib import Path

from monai_ext.errors import InputError

_expected: dict[Path, tuple[int, int]] = {}


class FolderGoneError(InputError):
    """A folder that a run writes into was removed, moved or replaced."""


def expect_folder(folder: Path) -> None:
    """From here on `check_folder` raises if this folder is not the same any more; called again, as it is then."""
    _expected[folder.resolve()] = _identity(folder)


def forget_folder(folder: Path) -> None:
    """End what `expect_folder` began."""
    _expected.pop(folder.resolve(), None)


def check_folder(folder: Path) -> None:
    """To be called before something is written into a folder, or before that is made.

    Raises:
        FolderGoneError: `expect_folder` was told of it, or of one that it lies in, and that was removed or replaced.
    """
    if not _expected:
        return
    place = folder.resolve()
    for expected, identity in _expected.items():
        if not place.is_relative_to(expected):
            continue
        try:
            same = _identity(expected) == identity
        except (FileNotFoundError, NotADirectoryError):
            same = False
        if not same:
            raise FolderGoneError(
                f"{expected}: the folder of this run was removed, moved or replaced while it ran; nothing more is "
                "written. Cure: put it back and start the same command again (a training: with --resume True), "
                "or begin anew"
            )


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
