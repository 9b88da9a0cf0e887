"""Bring the case store up to date with dataset and plan: parallel, resumable, and idle when nothing changed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_ext.datasets.segmentation_dataset import Case, SegmentationDataset
from monai_ext.errors import InputError, Problems
from monai_ext.planning.plan import Plan
from monai_ext.preprocessing.case_preprocessing import preprocess
from monai_ext.preprocessing.case_store import (
    LOCK_PATIENCE,
    CaseStore,
    StorageError,
    UnsyncedWrites,
    has_leftovers,
    remove_leftovers,
    store_lock,
    update_description,
    write_case,
)
from monai_ext.preprocessing.foreground_locations import find_locations
from monai_ext.worker_pool import worker_pool

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Outcome:
    """What became of one case: redone or not, a warning, or a mistake in its files."""

    name: str
    redone: bool = False
    warning: str = ""
    problem: str = ""


def prepare_cases(
    dataset: SegmentationDataset,
    plan: Plan,
    folder: Path,
    num_workers: int = 0,
    progress: bool = True,
    cases: Sequence[Case] = (),
) -> CaseStore:
    """Preprocess the cases of a dataset that are not stored yet.

    A case is redone if the plan's preprocessing fields, its raw files or its stored files changed. Raw files of the
    same size and modification time count as unchanged; if only the time differs, their content decides. Cases in the
    folder that the dataset does not name are left alone and not listed.

    Of several processes that share a folder one writes, the others wait and then find the cases ready. A store that
    needs no change is not locked, and may be read-only. A case that is found damaged later, when it is opened, is made
    anew then.

    Args:
        dataset: its training cases are stored, unless others are given; those without label without label.
        plan: decides what is stored.
        folder: the store; made if it does not exist.
        num_workers: processes; 0 and 1 work in this process.
        progress: show a bar.
        cases: instead of the training cases.

    Raises:
        InputError: lists every case whose files cannot be used (all others are stored), or tells that the store
            cannot be written, or that a worker was killed.
        LockedError: another process has been preparing the folder for a day.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}). Cure: point store_dir elsewhere") from error
    cases = list(cases or dataset.training)
    redone = 0
    if has_leftovers(folder) or not all(_is_current(case, plan, folder) for case in cases):
        lock = store_lock(folder)
        lock.acquire(LOCK_PATIENCE)
        try:
            redone = _prepare_waiting(dataset.name, cases, plan, folder, num_workers, progress)
        finally:
            lock.release()
    logger.info("preprocessing: %d of %d cases done anew, in %s", redone, len(cases), folder)
    names = [case.name for case in cases]
    return CaseStore(folder, names, plan.preprocessing_hash(), _Rebuild(tuple(cases), plan, folder))


def _prepare_waiting(
    dataset: str, cases: Sequence[Case], plan: Plan, folder: Path, num_workers: int, progress: bool
) -> int:
    """Store what is not stored yet, in a folder that is locked; returns how many cases that were."""
    remove_leftovers(folder)
    problems = Problems(f"preprocessing of {dataset}")
    redone = 0
    writes = UnsyncedWrites(folder)
    try:
        for outcome in _bar(_outcomes(cases, plan, folder, num_workers, writes), len(cases), progress):
            redone += outcome.redone
            if outcome.warning:
                logger.warning("case %s: %s", outcome.name, outcome.warning)
            if outcome.problem:
                problems.lines.append(f"case {outcome.name}: {outcome.problem}")
    finally:
        writes.end()
    problems.lines.sort()
    problems.raise_if_any()
    return redone


@dataclass(frozen=True)
class _Rebuild:
    """Makes a damaged case anew, in whichever process opened it."""

    cases: tuple[Case, ...]
    plan: Plan
    folder: Path

    def __call__(self, name: str) -> None:
        case = next(case for case in self.cases if case.name == name)
        lock = store_lock(self.folder)
        lock.acquire(LOCK_PATIENCE)
        try:
            if _is_current(case, self.plan, self.folder, thoroughly=True, may_write=True):
                return  # another process was first
            writes = UnsyncedWrites(self.folder)
            writes.begin()
            try:
                outcome = _prepare_case(case, self.plan, self.folder)
            finally:
                writes.end()
        finally:
            lock.release()
        if outcome.problem:
            raise InputError(f"case {name}: is damaged in the store and cannot be made anew: {outcome.problem}")


def _bar(outcomes: Iterable[_Outcome], total: int, progress: bool) -> Iterable[_Outcome]:
    if not progress:
        return outcomes
    from tqdm import tqdm

    return tqdm(outcomes, total=total, desc="preprocessing", unit="case")


def _outcomes(
    cases: Iterable[Case], plan: Plan, folder: Path, num_workers: int, writes: UnsyncedWrites
) -> Iterator[_Outcome]:
    # looking at sizes and times needs no processes: a run with nothing to do starts none
    waiting = []
    for case in cases:
        if _is_current(case, plan, folder, writes.found, may_write=True):
            yield _Outcome(case.name)
        else:
            waiting.append(case)
    if not waiting:
        return
    writes.begin()
    if num_workers <= 1 or len(waiting) <= 1:
        yield from (_prepare_case(case, plan, folder) for case in waiting)
        return
    executor = worker_pool(min(num_workers, len(waiting)), _use_one_thread)
    finished = set()
    try:
        futures = {executor.submit(_prepare_case, case, plan, folder): case for case in waiting}
        for future in as_completed(futures):
            outcome = future.result()
            finished.add(outcome.name)
            yield outcome
    except BrokenProcessPool as error:
        left = [case.name for case in waiting if case.name not in finished]
        raise InputError(
            f"{folder}: a preprocessing process was killed, most likely for lack of memory; unfinished: "
            f"{', '.join(left[:10])}{' ...' if len(left) > 10 else ''}. "
            f"Cure: run again with less than num_workers {num_workers} (finished cases are kept)"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _prepare_case(case: Case, plan: Plan, folder: Path) -> _Outcome:
    from monai_ext.datasets.image_files import check_same_geometry, read_image, read_label

    try:
        raw_files = [_file_facts(path, with_hash=True) for path in _raw_files(case)]
        image, geometry = read_image(case.images)
        label = None
        if case.label is not None:
            label, label_geometry = read_label(case.label)
            check_same_geometry(geometry, label_geometry, str(case.images[0]), str(case.label))
        stored_image, stored_label, placement = preprocess(image, geometry, plan, label)
        locations, warning = {}, ""
        if stored_label is not None:
            locations = find_locations(stored_label, sorted(plan.foreground_classes.values()), case.name)
            if not locations:
                warning = "no foreground in the stored label; it is used as background only"
        description = {
            "preprocessing_hash": plan.preprocessing_hash(),
            "geometry": geometry.to_dict(),
            "placement": placement.to_dict(),
            "raw_files": raw_files,
        }
        write_case(folder, case.name, stored_image, stored_label, locations, description)
        return _Outcome(case.name, redone=True, warning=warning)
    except StorageError:
        raise
    except InputError as error:
        return _Outcome(case.name, problem=str(error))
    except MemoryError as error:
        raise InputError(
            f"case {case.name}: not enough memory. Cure: fewer num_workers, or a coarser spacing in the plan"
        ) from error
    except Exception as error:
        raise RuntimeError(f"case {case.name}: {type(error).__name__}: {error}") from error


def _is_current(case: Case, plan: Plan, folder: Path, thoroughly: bool = False, may_write: bool = False) -> bool:
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
        paths = _raw_files(case)
        if [facts["role"] for facts in stored] != [role for role, _ in paths]:
            return False
        now = [_file_facts(path) for path in paths]
        if any(new["size"] != old["size"] for new, old in zip(now, stored, strict=True)):
            return False
        moved = [i for i, (new, old) in enumerate(zip(now, stored, strict=True)) if new["mtime_ns"] != old["mtime_ns"]]
        if moved and not may_write:
            return False
        if any(_file_facts(paths[i], with_hash=True)["sha256"] != stored[i]["sha256"] for i in moved):
            return False
        if moved:
            renewed = [{**old, "mtime_ns": new["mtime_ns"]} for old, new in zip(stored, now, strict=True)]
            update_description(folder, case.name, {"raw_files": renewed})
    except (InputError, OSError, KeyError, TypeError):
        return False  # missing or damaged: preparing it again will tell
    return True


def _raw_files(case: Case) -> list[tuple[str, Path]]:
    """Role and path of every file, a DICOM folder as its files."""
    files = []
    for number, path in enumerate(case.images):
        parts = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        files += [(f"image {number}", part) for part in parts]
    return files + ([("label", case.label)] if case.label is not None else [])


def _file_facts(file: tuple[str, Path], with_hash: bool = False) -> dict[str, Any]:
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
