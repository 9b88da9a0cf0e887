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

import json
import logging
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_ext.errors import InputError
from monai_ext.file_lock import FileLock
from monai_ext.preprocessing.case_preprocessing import Placement
from monai_ext.preprocessing.case_writing import STORE_VERSION, update_description, write_case
from monai_ext.preprocessing.storage_errors import DamagedCaseError, StorageError, rebuild_cure
from monai_ext.preprocessing.unfinished_writes import UnsyncedWrites, has_leftovers, remove_leftovers

if TYPE_CHECKING:
    from monai_ext.datasets.image_files import Geometry

__all__ = [
    "ARRAY_FILES",
    "LOCK_FILE",
    "LOCK_PATIENCE",
    "STORE_VERSION",
    "CaseStore",
    "DamagedCaseError",
    "StorageError",
    "StoredCase",
    "UnsyncedWrites",
    "has_leftovers",
    "remove_leftovers",
    "store_lock",
    "update_description",
    "write_case",
]
from monai_ext.preprocessing.verified_marks import VerifiedMarks

logger = logging.getLogger(__name__)
ARRAY_FILES = ("image.npy", "label.npy", "locations.npz")
LOCK_FILE = ".lock"
LOCK_PATIENCE = 24 * 3600.0


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
        self._verified = VerifiedMarks(self.names)

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
        except (OSError, ValueError, RecursionError) as error:
            raise DamagedCaseError(f"{path}: cannot be read ({error}). {rebuild_cure(path)}") from error
        if not isinstance(content, dict) or content.get("store_version") != STORE_VERSION:
            raise DamagedCaseError(f"{path}: not a case description of version {STORE_VERSION}. {rebuild_cure(path)}")
        return content

    def load(self, name: str) -> StoredCase:
        """Open a case; arrays stay on disk.

        A case that none of the processes forked from this one's has opened yet, or whose files have changed since, is
        compared with its checksums, which reads it once. A damaged case is made anew from its raw files if the
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
        if not self._verified.has(name, state := self._state(name, content)):
            self._verify(name, content)
            self._verified.add(name, state)
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
            raise DamagedCaseError(f"{path}: missing or damaged ({error}). {rebuild_cure(path)}") from error
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
                raise DamagedCaseError(f"{path}: cannot be read ({error.strerror}). {rebuild_cure(path)}") from error
            if found != expected:
                raise DamagedCaseError(f"{path}: damaged, {found} instead of {expected}. {rebuild_cure(path)}")

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
        raise DamagedCaseError(
            f"{folder / 'case.json'}: does not list the files of the case. {rebuild_cure(folder / 'x')}"
        )
    return files


def store_lock(folder: Path) -> FileLock:
    """Lock that a process holds while it writes cases into a store; readers need none."""
    return FileLock(folder / LOCK_FILE, f"preparing {folder}", "wait until it ends, stop it, or another --store_dir")


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while content := file.read(2**20):
            checksum = zlib.crc32(content, checksum)
    return checksum
