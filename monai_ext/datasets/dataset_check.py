"""Open every file of a dataset and report all that would fail, or mislead, a training."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from monai_ext.atomic_files import write_cache
from monai_ext.datasets.case_check import CaseReport, check_case
from monai_ext.datasets.segmentation_dataset import Case, SegmentationDataset
from monai_ext.errors import InputError, Problems
from monai_ext.worker_pool import worker_pool

CHECK_VERSION = 2  # 2: palettes, transparency and print resolutions of pictures are read otherwise
SPACING_FACTOR = 4.0
LISTED_NAMES = 5  # cases named for each deviating size
Job = tuple[Case, int, dict[str, int], int, bool, bool]


def check_dataset(
    dataset: SegmentationDataset,
    num_workers: int = 0,
    progress: bool = False,
    cache_file: Path | None = None,
    *,
    images_2d: bool = False,
    mixed_sizes: bool = False,
) -> list[str]:
    """Open all training and test files.

    Args:
        dataset: from `read_msd`.
        num_workers: processes; 0 or 1 checks in this one.
        progress: show a bar with the time left.
        cache_file: JSON file that keeps a passed verdict; it counts while sizes, times and the description of the
            dataset are the same, for the same `images_2d` and `mixed_sizes`. Failed checks are not kept.
        images_2d: every case must have one slice; always so for datasets of 2D images.
        mixed_sizes: these images may differ in height and width; without it they may not.

    Returns:
        Warnings: what deserves a look but does not stop a training.

    Raises:
        InputError: one error with the problems of all cases, sorted by case.

    The processes that torchrun started deal the cases out; all must call it.
    """
    from monai_ext.engines import process_group  # here, since it loads torch, which workers need not
    from monai_ext.engines.folder_ranks import ranks_of_folder

    images_2d = bool(images_2d) or dataset.spatial_dims == 2
    key = f"{dataset_state(dataset)} images_2d={images_2d} mixed_sizes={images_2d and bool(mixed_sizes)}"
    known = None if cache_file is None else _known_verdict(cache_file, key)
    everywhere = all(process_group.gather(known is not None))
    if everywhere and known is not None:
        return known
    _, warnings = inspect_dataset(dataset, num_workers, progress, images_2d=images_2d, mixed_sizes=mixed_sizes)
    if cache_file is not None:
        content = json.dumps({"key": key, "warnings": warnings}, indent=1) + "\n"
        ranks_of_folder(cache_file.parent).first_alone(lambda: write_cache(cache_file, content))
    return warnings


def inspect_dataset(
    dataset: SegmentationDataset,
    num_workers: int = 0,
    progress: bool = False,
    *,
    images_2d: bool = False,
    mixed_sizes: bool = False,
) -> tuple[list[CaseReport], list[str]]:
    """What `check_dataset` does, without the kept verdict; also returns what was found in each case.

    Returns:
        Reports sorted by case name, and warnings.

    Raises:
        InputError: as `check_dataset`.
    """
    from monai_ext.engines import process_group  # here, since it loads torch, which workers need not
    from monai_ext.engines.dealt_work import dealt

    images_2d = bool(images_2d) or dataset.spatial_dims == 2
    problems, warnings = Problems(f"dataset {dataset.root}"), list[str]()
    shown = progress and process_group.is_first()
    jobs = _jobs(dataset, images_2d)
    found = dealt(jobs, lambda share: _reports(dataset, share, num_workers, shown))
    reports = sorted(found, key=lambda r: r.name)
    for report in reports:
        for where, what, cure in report.problems:
            problems.add(f"{report.name}: {where}", what, cure)
        warnings += [f"{report.name}: {text}" for text in report.warnings]
    if images_2d and not mixed_sizes:
        _require_one_size(reports, problems)
    process_group.together(problems.raise_if_any)
    return reports, warnings + _compare_cases(reports)


def _require_one_size(reports: list[CaseReport], problems: Problems) -> None:
    """All cases have the height, width and channels of the most common ones; others are listed by size."""
    groups: dict[tuple[int, int, int], list[str]] = defaultdict(list)
    for report in reports:
        if report.shape:
            _, height, width = report.shape
            groups[height, width, report.channels].append(report.name)
    if len(groups) <= 1:
        return
    with_channels = len({channels for _, _, channels in groups}) > 1

    def described(size: tuple[int, int, int]) -> str:
        height, width, channels = size
        return f"{width}x{height}" + (f" with {channels} channels" if with_channels else "")

    by_count = sorted(groups, key=lambda size: (-len(groups[size]), size))
    listed = []
    for size in by_count[1:]:
        names = groups[size]
        more = f" and {len(names) - LISTED_NAMES} more" if len(names) > LISTED_NAMES else ""
        listed.append(f"{described(size)}: {', '.join(names[:LISTED_NAMES])}{more}")
    problems.add(
        f"sizes (x, y) differ, the most common is {described(by_count[0])} ({len(groups[by_count[0]])} cases)",
        "others are " + "; ".join(listed),
        "resize or pad them, or --mixed_sizes True (each image is then cut and padded to the patch by itself)",
    )


def _jobs(dataset: SegmentationDataset, images_2d: bool) -> list[Job]:
    """Arguments of `check_case` for every case."""
    return [
        (case, len(dataset.channels), dataset.labels, dataset.spatial_dims, labelled, images_2d)
        for cases, labelled in ((dataset.training, True), (dataset.test, False))
        for case in cases
    ]


def _reports(
    dataset: SegmentationDataset, jobs: Sequence[Job], num_workers: int, progress: bool
) -> Iterator[CaseReport]:
    if num_workers <= 1:
        yield from _with_bar(map(_check, jobs), len(jobs), progress)
        return
    try:
        with worker_pool(num_workers) as pool:
            yield from _with_bar(pool.map(_check, jobs, chunksize=4), len(jobs), progress)
    except BrokenProcessPool:
        raise InputError(
            f"dataset {dataset.root}: a process of the check was ended from outside, most likely for want of memory. "
            f"Cure: set num_workers below {num_workers}"
        ) from None


def _check(job: Job) -> CaseReport:
    return check_case(*job)


def _with_bar(reports: Iterable[CaseReport], total: int, progress: bool) -> Iterable[CaseReport]:
    if not progress:
        return reports
    from tqdm import tqdm

    return tqdm(reports, total=total, desc="checking dataset", unit="case")


def _compare_cases(reports: list[CaseReport]) -> list[str]:
    warnings = []
    orientations = Counter(r.orientation for r in reports if r.orientation)
    if len(orientations) > 1:
        listed = ", ".join(f"{code} {count}" for code, count in orientations.most_common())
        warnings.append(f"mixed orientations ({listed}): every case is reoriented to RAS while reading")
    measured = [(r.name, r.spacing) for r in sorted(reports, key=lambda r: r.name) if r.spacing is not None]
    if measured:
        median = np.median([spacing for _, spacing in measured], axis=0)
        for name, spacing in measured:
            ratio = np.array(spacing) / median
            if (ratio > SPACING_FACTOR).any() or (ratio < 1 / SPACING_FACTOR).any():
                values = "x".join(f"{v:g}" for v in reversed(spacing))
                middle = "x".join(f"{v:g}" for v in reversed(median.tolist()))
                factor = f"{SPACING_FACTOR:g}"
                warnings.append(f"{name}: spacing {values} mm (x, y, z) is over {factor} times off the median {middle}")
    return warnings


def dataset_state(dataset: SegmentationDataset) -> str:
    """Digest of all that the verdict depends on: the description, and size and time of every file."""
    state: list[object] = [CHECK_VERSION, dataset.channels, dataset.labels, dataset.spatial_dims]
    for case in (*dataset.training, *dataset.test):
        for path in (*case.images, *([case.label] if case.label else [])):
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            # a missing file has no state: it is reported by the check itself
            state.append([case.name, *([str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.exists())])
    description = dataset.root / "dataset.json"
    if description.is_file():
        state.append(hashlib.sha256(description.read_bytes()).hexdigest())
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _known_verdict(cache_file: Path, key: str) -> list[str] | None:
    try:
        content = json.loads(cache_file.read_text(encoding="utf-8"))
        return [str(text) for text in content["warnings"]] if content["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
