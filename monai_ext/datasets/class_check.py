"""Open every image of classification data once and report all that would stop, or mislead, a training."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from monai_ext.datasets.classification_dataset import ClassificationDataset, ImageCase, shortened
from monai_ext.datasets.image_facts import EIGHT_BIT, ImageFacts
from monai_ext.datasets.image_index import inspect_images
from monai_ext.errors import InputError, Problems

SAMPLED = 256  # images that mean, deviation and range of values are taken from
SMALLEST_SIDE = 16  # pixels: below, the last stage of the network sees less than one


@dataclass(frozen=True)
class CheckReport:
    """What was found in classification data.

    Attributes:
        name: of the dataset.
        classes: names.
        counts: images per class, by part (`train`, `val`, `test` or empty).
        kinds: images of each kind of file, such as `RGB 8-bit`.
        spatial_dims: 2 for pictures, 3 for volumes.
        channels: 3 if any image has colour, else 1; volumes: those of the files.
        median_size, smallest, largest: pixels (y, x) or voxels; `smallest` and `largest` by area.
        value_range: values of the files that become 0 and 1; (0, 255) for 8-bit pictures, else percentiles 0.5 and 99.5
            of a sample.
        moments: mean and mean square per channel of the sample, scaled to 0 to 1, by number of channels.
        sampled: images in the sample.
        skipped: names of images that cannot be read and were left out.
        duplicates: names of images with equal content.
        warnings: what deserves a look but does not stop a training.
        digests: of the pixels, by name.
    """

    name: str
    classes: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    kinds: Mapping[str, int]
    spatial_dims: int
    channels: int
    median_size: tuple[int, ...]
    smallest: tuple[int, ...]
    largest: tuple[int, ...]
    value_range: tuple[float, float]
    moments: Mapping[int, tuple[tuple[float, ...], tuple[float, ...]]]
    sampled: int
    skipped: tuple[str, ...] = ()
    duplicates: tuple[tuple[str, ...], ...] = ()
    warnings: tuple[str, ...] = field(default=())
    digests: Mapping[str, str] = field(default_factory=dict, repr=False)

    def mean_std(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel of values scaled to 0 to 1, images weighted equally.

        Args:
            channels: of the network's input; pictures are converted to grey (1) or RGB (3).

        Raises:
            InputError: the images cannot be converted to so many channels.
        """
        if channels not in self.moments:
            known = ", ".join(map(str, self.moments))
            raise InputError(f"--channels {channels}: images of {self.name} give {known}. Cure: one of them")
        mean, square = self.moments[channels]
        # an image set of one value has no deviation, and division by it must not end in NaN
        std = tuple(float(np.sqrt(max(s - m * m, 1e-6))) for m, s in zip(mean, square, strict=True))
        return mean, std

    def describe(self) -> str:
        """Text for the log."""
        total = sum(self.kinds.values())
        lines = [f"{self.name}: {total} images, {len(self.classes)} classes"]
        for split, counts in self.counts.items():
            listed = [f"{name} {count}" for name, count in zip(self.classes, counts, strict=True)]
            lines.append(f"{split or 'images'}: {shortened(listed, 20)}")
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
        mixed = f", all become {_colours(self.channels)}" if len(self.kinds) > 1 and self.spatial_dims == 2 else ""
        lines.append(f"files: {kinds}{mixed}")
        median, low, high = ("x".join(map(str, size)) for size in (self.median_size, self.smallest, self.largest))
        lines.append(f"size: median {median}, smallest {low}, largest {high}")
        mean, std = (", ".join(f"{value:.3f}" for value in values) for values in self.mean_std(self.channels))
        low_value, high_value = self.value_range
        lines.append(
            f"values {low_value:g} to {high_value:g} become 0 to 1: mean {mean}, std {std} ({self.sampled} images)"
        )
        if self.skipped:
            lines.append(f"left out, cannot be read: {len(self.skipped)} images: {shortened(list(self.skipped))}")
        lines += [f"warning: {text}" for text in self.warnings]
        return "\n".join(lines)


def check_classification(
    dataset: ClassificationDataset,
    skip_unreadable: bool = False,
    index_file: Path | None = None,
    *,
    training: bool = True,
    pooled: bool = False,
    crop: Sequence[int] = (),
    num_workers: int = 0,
    progress: bool = False,
) -> tuple[ClassificationDataset, CheckReport]:
    """Open all images.

    Args:
        dataset: from `open_classification`.
        skip_unreadable: leave out images that cannot be read instead of refusing the dataset.
        index_file: JSON file that keeps what was found in each image; it counts while size and time of the file are
            the same, so that a second run opens only new images.
        training: classes without training image are refused.
        pooled: folds are drawn from train and val together, so any of the two is a training image.
        crop: size of the network's input (one number for all axes), to count the images that are enlarged.
        num_workers: processes; 0 or 1 checks in this one.
        progress: show a bar with the time left.

    Returns:
        The dataset without images left out, and the report.

    Raises:
        InputError: one error with all problems: unreadable images, classes without image, pictures and volumes mixed.
    """
    from monai_ext.engines import process_group  # here, since it loads torch

    facts, errors = inspect_images(dataset.cases, index_file, sample(dataset), num_workers, progress)
    problems, warnings = Problems(f"images of {dataset.name}"), list(dataset.notes)
    if errors and not skip_unreadable:
        for name, what in sorted(errors.items()):
            problems.add(name, what, "copy the file again or remove it; --skip_unreadable True leaves such images out")
    readable = replace(dataset, cases=tuple(case for case in dataset.cases if case.name not in errors))
    if training:
        _check_classes(readable if skip_unreadable else dataset, pooled, problems, warnings)
    dims = Counter(len(fact.size) for fact in facts.values())
    if len(dims) > 1:
        few = min(dims, key=lambda key: dims[key])
        names = sorted(name for name, fact in facts.items() if len(fact.size) == few)
        problems.add(f"{len(names)} images", f"are {few}D, others are not: {shortened(names)}", "one kind per dataset")
    if not facts:
        problems.add("images", "none can be read", "PNG, JPEG, TIFF, DICOM or NIfTI files")
    process_group.together(problems.raise_if_any)
    _check_sizes(facts, crop, warnings)
    duplicates = _duplicates(readable, facts, warnings)
    channels = _channels(facts, warnings)
    value_range = _value_range(facts, warnings)
    used = [fact for fact in facts.values() if fact.moments]
    sizes = sorted((fact.size for fact in facts.values()), key=lambda size: (np.prod(size), size))
    report = CheckReport(
        name=dataset.name,
        classes=dataset.classes,
        counts={split: tuple(readable.counts(split)) for split in readable.splits},
        kinds=dict(Counter(fact.kind for fact in facts.values()).most_common()),
        spatial_dims=next(iter(dims)),
        channels=channels,
        median_size=tuple(int(n) for n in np.median(np.array(sizes), axis=0)),
        smallest=sizes[0],
        largest=sizes[-1],
        value_range=value_range,
        moments=_moments(used, channels, value_range),
        sampled=len(used),
        skipped=tuple(sorted(errors)),
        duplicates=tuple(duplicates),
        warnings=tuple(warnings),
        digests={name: fact.digest for name, fact in facts.items()},
    )
    return readable, report


def sample(dataset: ClassificationDataset, count: int = SAMPLED, seed: int = 0) -> set[str]:
    """Names of the images that statistics are taken from: training images where the dataset is split."""
    cases = dataset.part("train") or [case for case in dataset.cases if case.split != "test"] or dataset.cases
    if len(cases) <= count:
        return {case.name for case in cases}
    chosen = np.random.default_rng(seed).choice(len(cases), count, replace=False)
    return {cases[index].name for index in chosen}


def _check_classes(dataset: ClassificationDataset, pooled: bool, problems: Problems, warnings: list[str]) -> None:
    train, val, test, rest = (dataset.counts(split) for split in ("train", "val", "test", ""))
    has_split = "train" in dataset.splits and not pooled
    for index, name in enumerate(dataset.classes):
        trained = train[index] if has_split else train[index] + val[index] + rest[index]
        others = {"val": 0 if pooled else val[index], "test": test[index]}
        if not trained and not any(others.values()):
            problems.add(f"class '{name}'", "has no image", "add images, or remove the folder or label")
        elif not trained:
            listed = " and ".join(f"{count} in {split}" for split, count in others.items() if count)
            problems.add(f"class '{name}'", f"has no training image, but {listed}", "add training images, or remove it")
        elif has_split and "val" in dataset.splits and not val[index]:
            warnings.append(f"class '{name}' has no validation image: it is trained, but has no score")
        if trained == 1:
            warnings.append(f"class '{name}' has 1 training image")


def _check_sizes(facts: Mapping[str, ImageFacts], crop: Sequence[int], warnings: list[str]) -> None:
    tiny = sorted(name for name, fact in facts.items() if min(fact.size) < SMALLEST_SIDE)
    if tiny:
        warnings.append(f"{len(tiny)} images are smaller than {SMALLEST_SIDE} pixels: {shortened(tiny)}")
    wanted = tuple(crop) * 3 if len(crop) == 1 else tuple(crop)  # one number: of every axis
    small = sum(any(n < m for n, m in zip(fact.size, wanted, strict=False)) for fact in facts.values())
    if crop and small:
        size = "x".join(map(str, crop))
        warnings.append(f"{small} of {len(facts)} images are smaller than the network's input {size} and are enlarged")


def _duplicates(
    dataset: ClassificationDataset, facts: Mapping[str, ImageFacts], warnings: list[str]
) -> list[tuple[str, ...]]:
    """Images with equal content; copies in two parts, or of two classes, give a warning."""
    by_content: dict[str, list[ImageCase]] = defaultdict(list)
    for case in dataset.cases:
        by_content[facts[case.name].digest].append(case)
    same = [cases for cases in by_content.values() if len(cases) > 1]
    across = [cases for cases in same if len({case.split for case in cases}) > 1]
    if across:
        pairs = [" = ".join(case.name for case in cases) for cases in across]
        warnings.append(f"leak: {len(across)} images are in more than one part: {shortened(pairs)}")
    unlike = [cases for cases in same if len({case.labels for case in cases if case.labels}) > 1]
    if unlike:
        pairs = [" = ".join(_labelled(case, dataset.classes) for case in cases) for cases in unlike]
        warnings.append(f"{len(unlike)} images have copies with other labels: {shortened(pairs)}")
    inside = [cases for cases in same if cases not in across and cases not in unlike]
    if inside:
        pairs = [" = ".join(case.name for case in cases) for cases in inside]
        warnings.append(f"{len(inside)} images have copies in the same part and class: {shortened(pairs, 3)}")
    return [tuple(case.name for case in cases) for cases in same]


def _labelled(case: ImageCase, classes: Sequence[str]) -> str:
    return f"{case.name} ({', '.join(classes[label] for label in case.labels) or 'no label'})"


def _channels(facts: Mapping[str, ImageFacts], warnings: list[str]) -> int:
    found = Counter(fact.channels for fact in facts.values())
    volumes = any(len(fact.size) == 3 for fact in facts.values())
    if volumes and len(found) > 1:
        listed = ", ".join(f"{count} with {channels}" for channels, count in found.most_common())
        raise InputError(f"channels of volumes differ: {listed}. Cure: the same channels in every file")
    colour = {name for name, fact in facts.items() if fact.channels == 3}
    seen = [fact for name, fact in facts.items() if name in colour and fact.moments]
    if seen and all(fact.equal_channels for fact in seen) and len(colour) == len(facts):
        warnings.append(f"all {len(seen)} sampled RGB images are grey: --channels 1 is enough")
    return max(found)


def _value_range(facts: Mapping[str, ImageFacts], warnings: list[str]) -> tuple[float, float]:
    wide = [fact for fact in facts.values() if fact.full_range != EIGHT_BIT]
    if not wide:
        return EIGHT_BIT
    mixed = len(wide) < len(facts)
    if mixed and all(fact.full_range is not None for fact in wide):
        warnings.append(
            f"{len(wide)} images have 16 bits, {len(facts) - len(wide)} have 8: values from 0 to 65535 become 0 to 255"
        )
        return EIGHT_BIT
    if mixed:
        warnings.append(
            f"{len(wide)} images have floating point or CT values, {len(facts) - len(wide)} have 8 bits: "
            "black and white of these become the range of those"
        )
    ranges = np.array([fact.value_range for fact in wide if fact.moments] or [(0.0, 1.0)])
    low, high = (round(float(value), 4) for value in np.median(ranges, axis=0))
    return (low, high) if low < high else (low, low + 1.0)


def _moments(
    used: Sequence[ImageFacts], channels: int, value_range: tuple[float, float]
) -> dict[int, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Mean and mean square for each number of channels that the network's input may have, values scaled to 0 to 1."""
    found = dict[int, tuple[tuple[float, ...], tuple[float, ...]]]()
    convertible = {1, 3} if channels in (1, 3) else {channels}
    for number in sorted(convertible):
        means, squares = list[np.ndarray](), list[np.ndarray]()
        for fact in used:
            mean, square = map(np.asarray, fact.as_channels(number))
            # as pictures are brought to the range of the plan: see `PlanPicture`
            scaled = fact.full_range == EIGHT_BIT or value_range == EIGHT_BIT
            low, high = fact.full_range if scaled and fact.full_range is not None else value_range
            means.append((mean - low) / (high - low))
            squares.append((square - 2 * low * mean + low * low) / (high - low) ** 2)
        found[number] = tuple(np.mean(means, axis=0).tolist()), tuple(np.mean(squares, axis=0).tolist())
    return found


def _colours(channels: int) -> str:
    return {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
