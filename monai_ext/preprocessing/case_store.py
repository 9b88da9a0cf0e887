"""Preprocessed cases on disk: one folder a case, complete or absent, checksummed, read in patches.

```
<folder>/<case>/image.npy       float32 [C, d, h, w]
                label.npy       uint8, or int16 from class value 256 on, [d, h, w]; absent for unlabelled cases
                locations.npz   "<class value>": int32 [n, 3] voxels of the class, for foreground sampling
                case.json       geometry, placement, hash of the plan, raw files, checksums; written last
```

Arrays are plain `.npy`, memory-mapped: a patch is a slice of the mapping, which reads only the pages it touches, at
the speed of memory when the page cache holds them, without a decompressor, a dependency or a lock. The price is disk
space: four bytes a voxel and channel.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import shutil
import socket
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from monai_ext.errors import InputError
from monai_ext.file_lock import FileLock
from monai_ext.preprocessing.case_preprocessing import Placement

if TYPE_CHECKING:
    from monai_ext.datasets.image_files import Geometry

logger = logging.getLogger(__name__)
STORE_VERSION = 1
ARRAY_FILES = ("image.npy", "label.npy", "locations.npz")
LOCK_FILE = ".lock"
LOCK_PATIENCE = 24 * 3600.0

_HIDDEN = ".unfinished-"
_UNSYNCED = "unsynced"
_STALE_SECONDS = 24 * 3600
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


class StorageError(InputError):
    """The store cannot be written: disk, quota or file-size limit reached, or no rights. Nothing partial is left."""


class DamagedCaseError(InputError):
    """A file of a stored case is missing, cut short or has another content than was written."""


@dataclass(frozen=True)
class StoredCase:
    """One case, opened but not read.

    Attributes:
        name: case name.
        image: float32 `[C, d, h, w]`, read-only mapping.
        label: uint8 or int16 `[d, h, w]`, read-only mapping, or None.
        locations: class value to int32 `[n, 3]` voxels in stored axes; classes that are absent are left out.
        placement: where it lies in the raw volume.
        geometry: grid of the raw file.
    """

    name: str
    image: np.memmap
    label: np.memmap | None
    locations: dict[int, np.ndarray]
    placement: Placement
    geometry: Geometry


class CaseStore:
    """The preprocessed cases below a folder.

    Args:
        folder: as given to `prepare_cases`.
        names: cases to list; default all that the folder holds.
        preprocessing_hash: of the plan that the cases must belong to; empty for any.
        rebuild: called with the name of a damaged case, makes it anew; None leaves damaged cases to the caller.
    """

    def __init__(
        self,
        folder: str | Path,
        names: Sequence[str] | None = None,
        preprocessing_hash: str = "",
        rebuild: Callable[[str], None] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._names = None if names is None else list(names)
        self._hash = preprocessing_hash
        self._rebuild = rebuild
        self._verified: dict[str, list[tuple[int, int, int]]] = {}

    def part(self, names: Sequence[str]) -> CaseStore:
        """The same store with fewer cases."""
        return CaseStore(self.folder, names, self._hash, self._rebuild)

    @property
    def names(self) -> list[str]:
        """Names of the complete cases, sorted."""
        if self._names is not None:
            return sorted(self._names)
        if not self.folder.is_dir():
            return []
        return sorted(f.parent.name for f in self.folder.glob("*/case.json") if not f.parent.name.startswith("."))

    def describe(self, name: str) -> dict[str, Any]:
        """Content of `case.json`.

        Raises:
            DamagedCaseError: the case is not in the store, or its description is damaged.
        """
        path = self.folder / name / "case.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DamagedCaseError(
                f"{self.folder}: holds no case {name!r}. Cure: run preprocessing, or correct the name"
            ) from None
        except (OSError, ValueError) as error:
            raise DamagedCaseError(f"{path}: cannot be read ({error}). {_cure(path)}") from error
        if not isinstance(content, dict) or content.get("store_version") != STORE_VERSION:
            raise DamagedCaseError(f"{path}: not a case description of version {STORE_VERSION}. {_cure(path)}")
        return content

    def load(self, name: str) -> StoredCase:
        """Open a case; arrays stay on disk.

        When this object opens a case for the first time, or its files have changed since, they are compared with
        their checksums, which reads them once. A damaged case is made anew from its raw files if the
        store comes from `prepare_cases`.

        Raises:
            DamagedCaseError: the case or one of its files is missing or damaged, and was not made anew.
            InputError: another run prepared the case for another plan, or a damaged case cannot be made anew.
        """
        try:
            return self._load(name)
        except DamagedCaseError as error:
            if self._rebuild is None or name not in (self._names or ()):
                raise
            logger.warning("%s", str(error).split(" Cure: ")[0])
            logger.warning("case %s is made anew from its raw files", name)
        self._rebuild(name)
        return self._load(name)

    def _load(self, name: str) -> StoredCase:
        from monai_ext.datasets.image_files import Geometry

        content, folder = self.describe(name), self.folder / name
        if self._hash and content.get("preprocessing_hash") != self._hash:
            raise InputError(
                f"{folder}: another run has prepared this case for another plan since this one began. "
                "Cure: a --store_dir of its own for every plan, and --resume True"
            )
        if self._verified.get(name) != (state := self._state(name, content)):
            self._verify(name, content)
            self._verified[name] = state
        path = folder / "case.json"
        try:
            geometry, placement = Geometry.from_dict(content["geometry"]), Placement.from_dict(content["placement"])
            files = content["files"]
            path = folder / "image.npy"
            image = np.load(path, mmap_mode="r")
            path = folder / "label.npy"
            label = np.load(path, mmap_mode="r") if path.name in files else None
            path = folder / "locations.npz"
            with np.load(path) as file:
                locations = {int(key): file[key] for key in file.files}
        except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise DamagedCaseError(f"{path}: missing or damaged ({error}). {_cure(path)}") from error
        return StoredCase(name, image, label, locations, placement, geometry)

    def verify(self, name: str) -> None:
        """Compare the stored files with their checksums.

        Raises:
            DamagedCaseError: names the first file that is missing, or whose size or checksum differs.
        """
        self._verify(name, self.describe(name))

    def _verify(self, name: str, content: Mapping[str, Any]) -> None:
        for file_name, expected in _stored_files(self.folder / name, content).items():
            path = self.folder / name / file_name
            try:
                found = {"size": path.stat().st_size, "crc32": _crc32(path)} if path.is_file() else "no file"
            except OSError as error:  # a bad sector, or removed in the meantime
                raise DamagedCaseError(f"{path}: cannot be read ({error.strerror}). {_cure(path)}") from error
            if found != expected:
                raise DamagedCaseError(f"{path}: damaged, {found} instead of {expected}. {_cure(path)}")

    def _state(self, name: str, content: Mapping[str, Any]) -> list[tuple[int, int, int]]:
        """What changes when the files of a case are written again, empty if one is missing."""
        try:
            stats = [(self.folder / name / file).stat() for file in _stored_files(self.folder / name, content)]
        except OSError:
            return []
        return [(one.st_ino, one.st_size, one.st_mtime_ns) for one in stats]


def _stored_files(folder: Path, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entry `files` of a description, whose names must lie in the folder of the case."""
    files = content.get("files")
    if not isinstance(files, dict) or not {"image.npy", "locations.npz"} <= set(files) <= set(ARRAY_FILES):
        raise DamagedCaseError(f"{folder / 'case.json'}: does not list the files of the case. {_cure(folder / 'x')}")
    return files


def store_lock(folder: Path) -> FileLock:
    """Lock that a process holds while it writes cases into a store; readers need none."""
    return FileLock(folder / LOCK_FILE, f"preparing {folder}", "wait until it ends, stop it, or another --store_dir")


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
    unfinished = _unfinished(folder, name)
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
        raise _storage_error(error, folder, f"case {name}", needed) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _storage_error(error: OSError, folder: Path, what: str, needed: int) -> OSError | StorageError:
    """What to raise for an error of the system: itself if neither rights nor space are the reason."""
    if error.errno in _DENIED:
        return StorageError(
            f"{folder}: cannot be written ({os.strerror(error.errno or 0)}). "
            "Cure: change its rights, or point store_dir elsewhere"
        )
    if error.errno not in _FULL:
        return error
    free = shutil.disk_usage(folder).free
    written = sum(f.stat().st_size for f in folder.glob("*/*") if not f.parent.name.startswith("."))
    return StorageError(
        f"{folder}: no space left ({os.strerror(error.errno or 0)}) for {what}, which needs {needed / 1e6:.1f} MB; "
        f"{written / 1e6:.1f} MB are stored so far, {free / 1e6:.1f} MB are free. "
        "Cure: free space or raise the quota and run again (finished cases are kept), "
        "or point store_dir to a larger disk"
    )


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
        self._marker = _unfinished(folder, _UNSYNCED)
        self._left = [path for path in folder.glob(f"{_HIDDEN}*{_UNSYNCED}") if _is_abandoned(path)]
        self.found = bool(self._left)

    def begin(self) -> None:
        """Put the marker; to be called before the first case is written.

        Raises:
            StorageError: no space left, or no right to write.
        """
        try:
            _write_bytes(self._marker, b"")
            _sync(self._marker)
            _sync_folder(self.folder)
        except OSError as error:
            raise _storage_error(error, self.folder, "the first case", 0) from error

    def end(self) -> None:
        """Sync what was written, if anything was, and take the markers away."""
        if not self._marker.exists() and not self._left:
            return
        if hasattr(os, "sync"):
            os.sync()
        else:
            for path in self.folder.glob("*/*"):
                _sync(path)
        for path in (self._marker, *self._left):
            path.unlink(missing_ok=True)


def update_description(folder: Path, name: str, changes: Mapping[str, Any]) -> None:
    """Replace entries of `case.json`, atomically."""
    path = folder / name / "case.json"
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    partial = _unfinished(path.parent, path.name)
    try:
        _write_bytes(partial, _to_json(content))
        _sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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


def _unfinished(folder: Path, name: str) -> Path:
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


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while content := file.read(2**20):
            checksum = zlib.crc32(content, checksum)
    return checksum


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # elsewhere a folder cannot be opened
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cure(path: Path) -> str:
    return f"Cure: delete {path.parent} and run preprocessing again, which redoes this case only"
