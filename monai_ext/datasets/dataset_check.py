"""Open every file of a dataset and report all that would fail, or mislead, a training."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monai_ext.atomic_files import write_text
from monai_ext.datasets.image_files import geometry_difference, read_image, read_label
from monai_ext.datasets.segmentation_dataset import Case, SegmentationDataset
from monai_ext.errors import InputError, Problems
from monai_ext.worker_pool import worker_pool

CHECK_VERSION = 1
SPACING_FACTOR = 4.0


@dataclass(frozen=True)
class CaseReport:
    """What was found in one case: problems as (file, what, cure), warnings, and facts compared across cases."""

    name: str
    problems: tuple[tuple[str, str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    orientation: str = ""
    spacing: tuple[float, float, float] | None = None


def check_dataset(
    dataset: SegmentationDataset, num_workers: int = 0, progress: bool = False, cache_file: Path | None = None
) -> list[str]:
    """Open all training and test files.

    Args:
        dataset: from `read_msd`.
        num_workers: processes; 0 or 1 checks in this one.
        progress: show a bar with the time left.
        cache_file: JSON file that keeps a passed verdict; it counts while sizes, times and the description of the
            dataset are the same. Failed checks are not kept.

    Returns:
        Warnings: what deserves a look but does not stop a training.

    Raises:
        InputError: one error with the problems of all cases, sorted by case.
    """
    key = dataset_state(dataset) if cache_file is not None else ""
    if cache_file is not None and (known := _known_verdict(cache_file, key)) is not None:
        return known
    problems, warnings = Problems(f"dataset {dataset.root}"), list[str]()
    reports = list(_reports(dataset, num_workers, progress))
    for report in sorted(reports, key=lambda r: r.name):
        for where, what, cure in report.problems:
            problems.add(f"{report.name}: {where}", what, cure)
        warnings += [f"{report.name}: {text}" for text in report.warnings]
    problems.raise_if_any()
    warnings += _compare_cases(reports)
    if cache_file is not None:
        write_text(cache_file, json.dumps({"key": key, "warnings": warnings}, indent=1) + "\n")
    return warnings


def check_case(case: Case, num_channels: int, labels: dict[str, int], spatial_dims: int, labelled: bool) -> CaseReport:
    """Open the files of one case; nothing is raised for what a person can repair."""
    problems, warnings = list[tuple[str, str, str]](), list[str]()
    image_geometry = label_geometry = None
    image_name = case.images[0].name
    try:
        image, image_geometry = read_image(case.images)
    except InputError as error:
        problems += [_as_problem(line) for line in _lines(error)]
    else:
        if image.shape[0] != num_channels:
            cure = "correct 'modality', or store the channels in one 4D file, channels last"
            what = f"file has {image.shape[0]} channels, dataset.json declares {num_channels}"
            problems.append((image_name, what, cure))
        if spatial_dims == 2 and image.shape[1] != 1:
            what = f"is a volume of {image.shape[1]} slices, dataset.json declares 2D"
            problems.append((image_name, what, "set tensorImageSize to 3D"))
        if spatial_dims == 3 and min(image.shape[1:]) == 1:
            what = f"is a single slice (shape {image.shape[1:]}), dataset.json declares 3D"
            problems.append((image_name, what, "set tensorImageSize to 2D"))
        finite = np.isfinite(image)
        if not finite.all():
            what = f"{finite.size - int(finite.sum())} of {finite.size} voxels are NaN or infinite"
            problems.append((image_name, what, "replace them, for instance by the value of air"))
        for channel, values in enumerate(image):
            if values.size and values.min() == values.max():
                which = f"channel {channel} of " if num_channels > 1 else ""
                warnings.append(f"{which}{image_name} is constant ({values.flat[0]:g} everywhere)")
        del image, finite
    if labelled and case.label is not None:
        try:
            label, label_geometry = read_label(case.label)
        except InputError as error:
            problems += [_as_problem(line) for line in _lines(error)]
        else:
            values, counts = np.unique(label, return_counts=True)
            allowed = set(labels.values())
            wrong = [f"{v} ({n} voxels)" for v, n in zip(values, counts, strict=True) if int(v) not in allowed]
            if wrong:
                what = f"holds values that dataset.json does not name: {', '.join(wrong[:8])}"
                known = ", ".join(f"{v} {n}" for n, v in labels.items())
                problems.append((case.label.name, what, f"correct the file, or add the class; known are {known}"))
            elif not (values != 0).any():
                warnings.append(f"{case.label.name} is all background")
    if image_geometry is not None and label_geometry is not None:
        difference = geometry_difference(image_geometry, label_geometry)
        if difference and case.label is not None:
            cure = "resample the label onto the image with nearest neighbour, or correct the wrong header"
            problems.append((case.label.name, f"differs from its image in {difference}", cure))
    return CaseReport(
        name=case.name,
        problems=tuple(problems),
        warnings=tuple(warnings),
        orientation=image_geometry.orientation if image_geometry else "",
        spacing=image_geometry.spacing if image_geometry else None,
    )


def _reports(dataset: SegmentationDataset, num_workers: int, progress: bool) -> Iterator[CaseReport]:
    jobs = [
        (case, len(dataset.channels), dataset.labels, dataset.spatial_dims, labelled)
        for cases, labelled in ((dataset.training, True), (dataset.test, False))
        for case in cases
    ]
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


def _check(job: tuple[Case, int, dict[str, int], int, bool]) -> CaseReport:
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


def _lines(error: InputError) -> list[str]:
    """Single problems of an error that lists several."""
    first, *rest = str(error).split("\n")
    return [line.removeprefix("  - ") for line in rest] or [first]


def _as_problem(line: str) -> tuple[str, str, str]:
    """Split `path: what. Cure: cure`; the path is shortened to the file name."""
    body, _, cure = line.partition(". Cure: ")
    path, separator, what = body.partition(": ")
    return (Path(path).name, what, cure) if separator else ("files", body, cure)
