"""Open every file of a dataset and report all that would fail, or mislead, a training."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monai_ext.atomic_files import write_text
from monai_ext.datasets.image_files import geometry_difference, read_image, read_label
from monai_ext.datasets.itk_files import has_alpha
from monai_ext.datasets.segmentation_dataset import Case, SegmentationDataset
from monai_ext.errors import InputError, Problems
from monai_ext.worker_pool import worker_pool

CHECK_VERSION = 2  # 2: palettes, transparency and print resolutions of pictures are read otherwise
SPACING_FACTOR = 4.0
LISTED_NAMES = 5  # cases named for each deviating size


@dataclass(frozen=True)
class CaseReport:
    """What was found in one case: problems as (file, what, cure), warnings, and facts compared across cases.

    `spacing` (mm) and `shape` (voxels) are canonical (z, y, x); `values` are those of the label.
    """

    name: str
    problems: tuple[tuple[str, str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    orientation: str = ""
    spacing: tuple[float, float, float] | None = None
    shape: tuple[int, ...] = ()
    channels: int = 0
    values: tuple[int, ...] = ()


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
    """
    images_2d = bool(images_2d) or dataset.spatial_dims == 2
    key = f"{dataset_state(dataset)} images_2d={images_2d} mixed_sizes={images_2d and bool(mixed_sizes)}"
    if cache_file is not None and (known := _known_verdict(cache_file, key)) is not None:
        return known
    _, warnings = inspect_dataset(dataset, num_workers, progress, images_2d=images_2d, mixed_sizes=mixed_sizes)
    if cache_file is not None:
        write_text(cache_file, json.dumps({"key": key, "warnings": warnings}, indent=1) + "\n")
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
    images_2d = bool(images_2d) or dataset.spatial_dims == 2
    problems, warnings = Problems(f"dataset {dataset.root}"), list[str]()
    reports = sorted(_reports(dataset, num_workers, progress, images_2d), key=lambda r: r.name)
    for report in reports:
        for where, what, cure in report.problems:
            problems.add(f"{report.name}: {where}", what, cure)
        warnings += [f"{report.name}: {text}" for text in report.warnings]
    if images_2d and not mixed_sizes:
        _require_one_size(reports, problems)
    problems.raise_if_any()
    return reports, warnings + _compare_cases(reports)


def check_case(
    case: Case, num_channels: int, labels: dict[str, int], spatial_dims: int, labelled: bool, images_2d: bool = False
) -> CaseReport:
    """Open the files of one case; nothing is raised for what a person can repair."""
    problems, warnings = list[tuple[str, str, str]](), list[str]()
    image_geometry = label_geometry = None
    image_name, channels, values = case.images[0].name, 0, np.zeros(0, np.uint8)
    try:
        image, image_geometry = read_image(case.images)
    except InputError as error:
        problems += [_as_problem(line) for line in _lines(error)]
    else:
        channels = int(image.shape[0])
        if channels != num_channels:
            what = f"file has {channels} channels, dataset.json declares {num_channels}"
            cure = "correct 'modality', or store the channels in one 4D file, channels last"
            if len(image_geometry.file_shape) == 2:
                what, cure = _picture_channels_problem(channels, num_channels)
            problems.append((image_name, what, cure))
        if spatial_dims == 2 and image.shape[1] != 1:
            what = f"is a volume of {image.shape[1]} slices, dataset.json declares 2D"
            problems.append((image_name, what, "set tensorImageSize to 3D"))
        elif images_2d and image.shape[1] != 1:
            what = f"is a volume of {image.shape[1]} slices, the training takes 2D images"
            problems.append((image_name, what, "store each slice as a file, or train on the slices of volumes"))
        if spatial_dims == 3 and not images_2d and min(image.shape[1:]) == 1:
            what = f"is a single slice (shape {image.shape[1:]}), dataset.json declares 3D"
            problems.append((image_name, what, "set tensorImageSize to 2D"))
        warnings += [f"{path.name} has an alpha channel, which is left away" for path in case.images if has_alpha(path)]
        finite = np.isfinite(image)
        if not finite.all():
            what = f"{finite.size - int(finite.sum())} of {finite.size} voxels are NaN or infinite"
            problems.append((image_name, what, "replace them, for instance by the value of air"))
        for channel, voxels in enumerate(image):
            if voxels.size and voxels.min() == voxels.max():
                which = f"channel {channel} of " if num_channels > 1 else ""
                warnings.append(f"{which}{image_name} is constant ({voxels.flat[0]:g} everywhere)")
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
        shape=image_geometry.shape if image_geometry else (),
        channels=channels,
        values=tuple(int(v) for v in values),
    )


def _picture_channels_problem(found: int, declared: int) -> tuple[str, str]:
    """What and cure for a picture with other channels than dataset.json declares."""
    kind = {1: "a grey picture with 1 channel", 3: "a colour picture with channels R, G, B"}
    what = f"is {kind.get(found, f'a picture with {found} channels')}, dataset.json declares {declared}"
    if found == 3 and declared == 1:
        return what, 'set "modality" to {"0": "R", "1": "G", "2": "B"}, or save the pictures as grey values'
    if found == 1 and declared == 3:
        return what, 'save it as RGB like the others, or, if all are grey, set "modality" to one channel'
    return what, "correct 'modality', or save the picture with the channels declared"


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


def _reports(dataset: SegmentationDataset, num_workers: int, progress: bool, images_2d: bool) -> Iterator[CaseReport]:
    jobs = [
        (case, len(dataset.channels), dataset.labels, dataset.spatial_dims, labelled, images_2d)
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


def _check(job: tuple[Case, int, dict[str, int], int, bool, bool]) -> CaseReport:
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
