"""A folder that belongs to one made-up dataset: written once, replaced by another of its kind, never mixed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monai_ext.errors import InputError

MARK = ".phantom-"


def is_finished(folder: Path, name: str) -> bool:
    """Whether the phantom of that name was written to the end."""
    return (folder / f"{MARK}{name}").exists()


@contextmanager
def writing_phantom(folder: Path, name: str) -> Iterator[None]:
    """Mark a folder as that of a phantom, and as finished when the block ends without error.

    Args:
        folder: made if it does not exist.
        name: what the phantom depends on; those of other names are no longer taken for finished.

    Raises:
        InputError: the folder holds something that is no phantom, or cannot be written to.
    """
    if folder.is_dir() and any(folder.iterdir()) and not any(folder.glob(f"{MARK}*")):
        raise InputError(f"{folder}: holds files that are no phantom. Cure: another folder for the phantom")
    mark, unfinished = folder / f"{MARK}{name}", folder / f"{MARK}unfinished"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}). Cure: a writable folder") from error
    for old in folder.glob(f"{MARK}*"):
        if old not in (unfinished, mark):  # the same one may be written by another process just now
            old.unlink(missing_ok=True)
    yield
    mark.touch()
    unfinished.unlink(missing_ok=True)  # another process may have finished it first
