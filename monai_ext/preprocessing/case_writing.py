"""Write cases into a store: beside their place, with checksums, then renamed."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from monai_ext.preprocessing.storage_errors import storage_error
from monai_ext.preprocessing.unfinished_writes import sync_file, unfinished_name

STORE_VERSION = 1


def write_case(
    folder: Path,
    name: str,
    image: np.ndarray,
    label: np.ndarray | None,
    locations: Mapping[int, np.ndarray],
    description: Mapping[str, Any],
) -> None:
    """Write one case beside its place, then rename it; an older version is replaced.

    A killed process leaves no half of a case. A power failure may, until `UnsyncedWrites` has synced it.

    Raises:
        StorageError: no space left, or no right to write; the partial folder is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_name(folder, name)
    files: dict[str, dict[str, int]] = {}
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        files["image.npy"] = _write_array(unfinished / "image.npy", image)
        if label is not None:
            files["label.npy"] = _write_array(unfinished / "label.npy", label)
        packed = io.BytesIO()
        np.savez(packed, **{str(value): voxels for value, voxels in locations.items()})  # type: ignore[arg-type]
        files["locations.npz"] = _write_bytes(unfinished / "locations.npz", packed.getvalue())
        content = {"store_version": STORE_VERSION, "name": name, **description, "files": files}
        _write_bytes(unfinished / "case.json", _to_json(content))
        _put_in_place(unfinished, folder / name)
    except OSError as error:
        needed = image.nbytes + (label.nbytes if label is not None else 0) + sum(v.nbytes for v in locations.values())
        raise storage_error(error, folder, f"case {name}", needed) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def update_description(folder: Path, name: str, changes: Mapping[str, Any]) -> None:
    """Replace entries of `case.json`, atomically."""
    path = folder / name / "case.json"
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    partial = unfinished_name(path.parent, path.name)
    try:
        _write_bytes(partial, _to_json(content))
        sync_file(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _put_in_place(unfinished: Path, final: Path) -> None:
    if final.exists():
        # a folder cannot be renamed onto another: a kill between these two lines costs the case, never its integrity
        old = unfinished.with_name(f"{unfinished.name}.old")
        os.replace(final, old)
        os.replace(unfinished, final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        try:
            os.replace(unfinished, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(unfinished)  # another run was first; what it stored is checked by the next run like any case


class _CheckedFile:
    """Writes through to a file and keeps size and checksum.

    numpy writes into a plain file object by C `fwrite` and then reports a full disk without the error number; into
    any other object it calls `write`, which reports it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size, self.crc32 = file, 0, 0

    def write(self, content: bytes) -> int:
        self.size += len(content)
        self.crc32 = zlib.crc32(content, self.crc32)
        return self.file.write(content)


def _write_array(path: Path, array: np.ndarray) -> dict[str, int]:
    with path.open("wb") as file:
        checked = _CheckedFile(file)
        np.save(checked, np.ascontiguousarray(array), allow_pickle=False)
    return {"size": checked.size, "crc32": checked.crc32}


def _write_bytes(path: Path, content: bytes) -> dict[str, int]:
    path.write_bytes(content)
    return {"size": len(content), "crc32": zlib.crc32(content)}


def _to_json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
