"""The folder of an export: the earlier one stays whole until every file of the new one has passed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from monai_ext.atomic_files import PARTIAL, explained, make_folder, partial_name, sync_folder
from monai_ext.errors import InputError
from monai_ext.export.manifest import MANIFEST
from monai_ext.export.tensorrt_engine import ENGINE
from monai_ext.file_lock import FileLock

LOCK_FILE = ".export.lock"
FILES = ("model.ts", "model.onnx", "model_int8.onnx", ENGINE, MANIFEST)


@contextmanager
def replaced_export(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder for the files of an export, which then take the place of those in `folder`.

    Where the export fails or is interrupted, an earlier one stays as it was. The manifest goes first and comes last: of
    a process that is killed while files are renamed, none is left that lists files which are not its own. What the
    earlier export has and the new one does not is removed, other files stay.

    Args:
        folder: made where it is missing.
        overwrite: replace an earlier export.

    Raises:
        InputError: the folder holds files of an export, another process exports to it, or it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, not a folder. Cure: another --output_dir")
    held = [name for name in FILES if (folder / name).exists()]
    if held and not overwrite:
        raise InputError(
            f"{folder}: holds an export already ({', '.join(held)}). Cure: --overwrite True, or another --output_dir"
        )
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    with explained(folder):
        make_folder(folder)
    lock = FileLock(folder / LOCK_FILE, f"{folder}, the folder of this export,", "another --output_dir, or wait")
    lock.acquire()
    scratch = partial_name(folder / "export")
    try:
        _remove_left(folder)
        with explained(scratch):
            scratch.mkdir()
        yield scratch
        with explained(folder):
            _replace(folder, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        lock.release(remove=True)
        with suppress(OSError):
            for place in missing:  # of an export that failed, unless others write there
                place.rmdir()


def _replace(folder: Path, scratch: Path) -> None:
    made = sorted((file.name for file in scratch.iterdir()), key=lambda name: name == MANIFEST)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in made:
        os.replace(scratch / name, folder / name)
    for name in FILES:
        if name not in made:
            (folder / name).unlink(missing_ok=True)
    sync_folder(folder)


def _remove_left(folder: Path) -> None:
    """What a killed export left; nobody else writes while the lock is held."""
    for place in folder.glob(".*-export"):
        if PARTIAL.match(place.name) and place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
