"""Whether a case is stored as plan and raw files ask for, by size, time and content of the raw files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from monai_ext.datasets.segmentation_dataset import Case
from monai_ext.errors import InputError
from monai_ext.planning.plan import Plan
from monai_ext.preprocessing.case_store import CaseStore, update_description


def is_current(case: Case, plan: Plan, folder: Path, thoroughly: bool = False, may_write: bool = False) -> bool:
    """Whether a case is stored as plan and raw files ask for.

    Args:
        case: with its raw files.
        plan: of the run.
        folder: of the store.
        thoroughly: compare checksums.
        may_write: keep the new times of raw files with the old content, for who has locked the store; without, such a
            case does not count as current.
    """
    try:
        content = CaseStore(folder).describe(case.name)
        if thoroughly:
            CaseStore(folder).verify(case.name)
        stored: list[dict[str, Any]] = content["raw_files"]
        if content["preprocessing_hash"] != plan.preprocessing_hash():
            return False
        for name, facts in content["files"].items():
            if (folder / case.name / name).stat().st_size != facts["size"]:
                return False
        paths = raw_files(case)
        if [facts["role"] for facts in stored] != [role for role, _ in paths]:
            return False
        now = [file_facts(path) for path in paths]
        if any(new["size"] != old["size"] for new, old in zip(now, stored, strict=True)):
            return False
        moved = [i for i, (new, old) in enumerate(zip(now, stored, strict=True)) if new["mtime_ns"] != old["mtime_ns"]]
        if moved and not may_write:
            return False
        if any(file_facts(paths[i], with_hash=True)["sha256"] != stored[i]["sha256"] for i in moved):
            return False
        if moved:
            renewed = [{**old, "mtime_ns": new["mtime_ns"]} for old, new in zip(stored, now, strict=True)]
            update_description(folder, case.name, {"raw_files": renewed})
    except (InputError, OSError, KeyError, TypeError):
        return False  # missing or damaged: preparing it again will tell
    return True


def raw_files(case: Case) -> list[tuple[str, Path]]:
    """Role (`image 0`, ..., `label`) and path of every file of a case, a DICOM folder as its files."""
    files = []
    for number, path in enumerate(case.images):
        parts = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        files += [(f"image {number}", part) for part in parts]
    return files + ([("label", case.label)] if case.label is not None else [])


def file_facts(file: tuple[str, Path], with_hash: bool = False) -> dict[str, Any]:
    """Role, name, size in bytes and time of a raw file, and with `with_hash` the SHA-256 of its content.

    Raises:
        InputError: it cannot be read.
    """
    role, path = file
    try:
        status = path.stat()
        facts = {"role": role, "name": path.name, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        if with_hash:
            digest = hashlib.sha256()
            with path.open("rb") as content:
                while part := content.read(2**20):
                    digest.update(part)
            facts["sha256"] = digest.hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Cure: restore the file or its rights") from error
    return facts
