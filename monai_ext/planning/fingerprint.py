"""What planning needs to know of a dataset: sizes, spacings, class sizes and foreground intensities."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from monai_ext.datasets.segmentation_dataset import Case, SegmentationDataset
from monai_ext.errors import InputError, Problems
from monai_ext.planning.intensity_summary import ChannelSummary, pool_summaries, summarize, summary_length
from monai_ext.planning.plan import ChannelIntensity
from monai_ext.worker_pool import worker_pool

CROP_RULES = ("nonzero", "positive", "none")


@dataclass(frozen=True)
class CaseFingerprint:
    """One training case; sizes in voxels, axes (z, y, x).

    Attributes:
        name: case name.
        shape: size on disk, canonical orientation.
        cropped_shape: size of the foreground box.
        spacing: mm.
        class_voxels: entry i is the number of voxels with label value i in the whole image.
    """

    name: str
    shape: tuple[int, ...]
    cropped_shape: tuple[int, ...]
    spacing: tuple[float, ...]
    class_voxels: tuple[int, ...]


@dataclass(frozen=True)
class Fingerprint:
    """The training set in numbers.

    Attributes:
        dataset: dataset name.
        channels: modality of each channel.
        labels: class name to value, background 0 included.
        ignore_label: value of unannotated voxels, or None.
        crop: rule of the foreground crop behind `cropped_shape`.
        cases: training cases in the dataset's order.
        median_relative_size: median over cases of voxels after crop / voxels before.
        intensity: per channel, statistics over the foreground voxels; every case has the same weight.
    """

    dataset: str
    channels: tuple[str, ...]
    labels: dict[str, int]
    ignore_label: int | None
    crop: str
    cases: tuple[CaseFingerprint, ...]
    median_relative_size: float
    intensity: tuple[ChannelIntensity, ...]

    @property
    def num_classes(self) -> int:
        """Network outputs: background and every class, without the ignore label."""
        return len([v for v in self.labels.values() if v != self.ignore_label])

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str | Path = "fingerprint") -> Fingerprint:
        """Raises `InputError` if the text is not JSON or a field is missing or of another type."""
        try:
            return TypeAdapter(cls).validate_python(json.loads(text))
        except (ValueError, RecursionError) as error:
            if isinstance(error, ValidationError):
                raise _invalid(source, error) from error
            raise InputError(f"{source}: not JSON ({error}). Cure: delete it, it is made again") from error

    @classmethod
    def load(cls, path: str | Path) -> Fingerprint:
        """Read a file written by `save`; raises `InputError` as `from_json`, or if the file is missing."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: fingerprint not found. Cure: compute it from the dataset first")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 text ({error}). Cure: delete it, it is made again") from error
        return cls.from_json(text, path)


def _invalid(source: str | Path, error: ValidationError) -> InputError:
    lines = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()]
    return InputError(
        "\n  - ".join([f"{source} is not a valid fingerprint. Cure: delete it, it is made again", *lines])
    )


def compute_fingerprint(
    dataset: SegmentationDataset, num_workers: int = 0, progress: bool = False, crop: str = "nonzero"
) -> Fingerprint:
    """Read every training case once and sum it up.

    Memory: one case per process, and for intensities at most 4 million numbers in all, however large the dataset.
    A case is reduced, where it was read, to exact moments, minimum and maximum and to its sorted foreground values,
    thinned to evenly spaced ranks if there are more than its share (`intensity_summary`). Nothing is drawn at random,
    so the result depends neither on a seed nor on the number of workers. Every case with foreground has the same
    weight, as in nnU-Net, which draws 10^8 values with replacement instead. Voxels with the ignore label do not count
    as foreground. The processes that torchrun started deal the cases out; all must call it.

    Args:
        dataset: training cases need labels.
        num_workers: processes; 0 and 1 read in this one.
        progress: show a bar.
        crop: `nonzero` (any channel != 0), `positive` (> 0) or `none`.

    Raises:
        InputError: lists all cases that cannot be read, have no label, another shape than their label, other labels
            or channels than the dataset declares, or NaN or infinite intensities; or no case has foreground.
    """
    if crop not in CROP_RULES:
        raise InputError(f"crop is {crop!r}. Cure: use one of {', '.join(CROP_RULES)}")
    if not dataset.training:
        raise InputError(f"dataset {dataset.root}: no training cases. Cure: list them in dataset.json")
    from monai_ext.engines import process_group  # here, since it loads torch, which workers need not
    from monai_ext.engines.dealt_work import dealt

    values = summary_length(len(dataset.training), len(dataset.channels))
    read = partial(
        _read_case,
        num_channels=len(dataset.channels),
        num_labels=max(*dataset.labels.values(), dataset.ignore_label or 0) + 1,
        ignore_label=dataset.ignore_label,
        crop=crop,
        values=values,
    )
    cases: list[CaseFingerprint] = []
    summaries: list[list[ChannelSummary]] = []
    problems = Problems(f"dataset {dataset.root}")
    shown = progress and process_group.is_first()
    found = dealt(dataset.training, lambda share: _with_bar(_map(read, share, num_workers), len(share), shown))
    for result in found:
        if isinstance(result, list):
            problems.lines += result
            continue
        cases.append(result[0])
        if result[1]:
            summaries.append(result[1])
    process_group.together(problems.raise_if_any)
    if not summaries:
        raise InputError(f"dataset {dataset.root}: no voxel of any case has a foreground label. Cure: check the labels")
    sizes = [math.prod(c.cropped_shape) / math.prod(c.shape) for c in cases]
    return Fingerprint(
        dataset=dataset.name,
        channels=dataset.channels,
        labels=dict(dataset.labels),
        ignore_label=dataset.ignore_label,
        crop=crop,
        cases=tuple(cases),
        median_relative_size=statistics.median(sizes),
        intensity=tuple(pool_summaries([s[i] for s in summaries]) for i in range(len(dataset.channels))),
    )


# what was found, or the lines of its problems
_CaseResult = tuple[CaseFingerprint, list[ChannelSummary]] | list[str]


def _map(read: partial[_CaseResult], cases: Sequence[Case], num_workers: int) -> Iterator[_CaseResult]:
    """Results in the order of the cases."""
    if num_workers <= 1:
        yield from map(read, cases)
        return
    try:
        with worker_pool(min(num_workers, len(cases))) as pool:
            yield from pool.map(read, cases)
    except BrokenProcessPool as error:
        raise InputError(
            f"a worker process died, probably out of memory. Cure: lower num_workers (it was {num_workers})"
        ) from error


def _with_bar(results: Iterator[_CaseResult], total: int, progress: bool) -> Iterator[_CaseResult]:
    if not progress:
        return results
    from tqdm import tqdm

    return iter(tqdm(results, total=total, desc="fingerprint", unit="case"))


def _read_case(
    case: Case, num_channels: int, num_labels: int, ignore_label: int | None, crop: str, values: int
) -> _CaseResult:
    from monai_ext.datasets.image_files import read_image, read_label

    problems = Problems(case.name)
    if case.label is None:
        problems.add(case.name, "is a training case without a label", "add the label or move the case to the test set")
        return problems.lines
    try:
        image, geometry = read_image(case.images)
        label, _ = read_label(case.label)
    except InputError as error:
        return [str(error)]
    if image.shape[0] != num_channels:
        found_channels = f"has {image.shape[0]} channels, the dataset names {num_channels}"
        problems.add(case.name, found_channels, "mend the image or the channel names in dataset.json")
    if label.shape != image.shape[1:]:
        shapes = f"has shape {label.shape}, its image {image.shape[1:]} (z, y, x)"
        problems.add(case.label, shapes, "restore the label that belongs to the image")
    if not np.isfinite(image).all():
        problems.add(case.name, "has NaN or infinite intensities", "replace them, for instance by 0")
    if label.min() < 0 or label.max() >= num_labels:
        values_found = f"has label values {label.min()} to {label.max()}, the dataset names 0 to {num_labels - 1}"
        problems.add(case.label, values_found, "name all labels in dataset.json or mend the label")
    if problems:
        return problems.lines
    counts = np.bincount(label.reshape(-1), minlength=num_labels)
    box = foreground_slices(image, crop)
    image, label = image[(slice(None), *box)], label[box]
    foreground = label > 0
    if ignore_label is not None:
        foreground &= label != ignore_label
    summaries = [summarize(channel[foreground], values) for channel in image] if foreground.any() else []
    found = CaseFingerprint(
        name=case.name,
        shape=tuple(geometry.shape),
        cropped_shape=tuple(label.shape),
        spacing=tuple(float(s) for s in geometry.spacing),
        class_voxels=tuple(int(n) for n in counts),
    )
    return found, summaries


def foreground_slices(image: np.ndarray, rule: str) -> tuple[slice, slice, slice]:
    """Bounding box of the foreground of `[C, D, H, W]`: `nonzero`, `positive` (in any channel), or all for `none`.

    An image without foreground keeps its full size.
    """
    whole = tuple(slice(0, n) for n in image.shape[1:])
    if rule == "none":
        return whole  # type: ignore[return-value]
    inside = np.zeros(image.shape[1:], dtype=bool)
    for channel in image:
        inside |= (channel != 0) if rule == "nonzero" else (channel > 0)
    if not inside.any():
        return whole  # type: ignore[return-value]
    edges = [np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple(slice(int(e[0]), int(e[-1]) + 1) for e in edges)  # type: ignore[return-value]
