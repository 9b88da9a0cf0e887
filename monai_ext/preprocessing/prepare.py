"""Bring the case store up to date with dataset and plan: parallel, resumable, and idle when nothing changed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from monai_ext.datasets.segmentation_dataset import Case, SegmentationDataset
from monai_ext.engines import process_group
from monai_ext.engines.folder_ranks import FolderRanks, ranks_of_folder
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
    write_case,
)
from monai_ext.preprocessing.foreground_locations import find_locations
from monai_ext.preprocessing.raw_file_state import file_facts, is_current, raw_files
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

    Of several runs that share a folder one writes, the others wait and then find the cases ready. A store that needs
    no change is not locked, and may be read-only. A case that is found damaged later, when it is opened, is made anew
    then.

    The processes that torchrun started deal the cases out among those that see the same folder, each with workers of
    its own; where machines have no common disk, every machine stores all cases. All must call it.

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
        SystemExit: instead of these, on all processes but the one that says it.
    """
    folder = Path(folder)
    process_group.together(lambda: _make(folder))
    ranks = ranks_of_folder(folder)
    cases = list(cases or dataset.training)
    with ExitStack() as held:
        waiting = ranks.of_first(lambda: _waiting(cases, plan, folder, held))
        share = None if waiting is None else [cases[index] for index in ranks.share(waiting)]
        shown = progress and process_group.is_first()
        done = process_group.together(lambda: _prepare_share(share, plan, folder, num_workers, shown))
        redone = _tell(process_group.gather(done), ranks, dataset.name)
    logger.info("preprocessing: %d of %d cases done anew, in %s", redone, len(cases), folder)
    names = [case.name for case in cases]
    return CaseStore(folder, names, plan.preprocessing_hash(), _Rebuild(tuple(cases), plan, folder))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}). Cure: point store_dir elsewhere") from error


def _waiting(cases: Sequence[Case], plan: Plan, folder: Path, held: ExitStack) -> list[int] | None:
    """Numbers of the cases that are not stored yet, with the folder locked until `held` ends.

    None, and no lock, if there is nothing to do.
    """
    if not has_leftovers(folder) and all(is_current(case, plan, folder) for case in cases):
        return None
    lock = store_lock(folder)
    lock.acquire(LOCK_PATIENCE)
    held.callback(lock.release)
    remove_leftovers(folder)
    distrust = UnsyncedWrites(folder).found
    return [n for n, case in enumerate(cases) if not is_current(case, plan, folder, distrust, may_write=True)]


def _prepare_share(
    cases: Sequence[Case] | None, plan: Plan, folder: Path, num_workers: int, progress: bool
) -> list[_Outcome]:
    """Store the cases that are dealt to this process, in a folder that is locked."""
    if cases is None:
        return []
    writes = UnsyncedWrites(folder)
    try:
        if cases:
            writes.begin()
        return list(_bar(_outcomes(cases, plan, folder, num_workers), len(cases), progress))
    finally:
        writes.end()


def _tell(outcomes: Sequence[Sequence[_Outcome]], ranks: FolderRanks, dataset: str) -> int:
    """Warnings and problems of all processes' cases; returns how many cases were stored in the folder of this one."""
    problems = Problems(f"preprocessing of {dataset}")
    told = {outcome for share in outcomes for outcome in share}  # of machines without a common folder: once
    for outcome in sorted(told, key=lambda outcome: outcome.name):
        if outcome.warning:
            logger.warning("case %s: %s", outcome.name, outcome.warning)
        if outcome.problem:
            problems.lines.append(f"case {outcome.name}: {outcome.problem}")
    process_group.together(problems.raise_if_any)
    return sum(outcome.redone for rank in ranks.ranks for outcome in outcomes[rank])


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
            if is_current(case, self.plan, self.folder, thoroughly=True, may_write=True):
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
    if not progress or not total:
        return outcomes
    from tqdm import tqdm

    return tqdm(outcomes, total=total, desc="preprocessing", unit="case")


def _outcomes(waiting: Sequence[Case], plan: Plan, folder: Path, num_workers: int) -> Iterator[_Outcome]:
    """Store cases, in this process or in workers."""
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
        found = [file_facts(path, with_hash=True) for path in raw_files(case)]
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
            "raw_files": found,
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
