"""What every reader of classification data returns: class names, and file, labels and part of each image."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from monai_ext.datasets.file_names import image_ending, is_dicom
from monai_ext.errors import InputError

# names of the parts of a dataset as people write them, lower case
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
LISTED_NAMES = 10


@dataclass(frozen=True)
class ImageCase:
    """One image.

    Attributes:
        name: path relative to the dataset folder, with `/`; the whole path if the file lies elsewhere.
        path: of the file.
        labels: indices of its classes; one unless the dataset is multi-label, none if it is not labelled.
        split: `train`, `val`, `test`, or empty where the dataset has no split.
        group: patient or other origin that must not be on both sides of a split; empty if not known.
    """

    name: str
    path: Path
    labels: tuple[int, ...]
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class ClassificationDataset:
    """Labelled images on disk; nothing is loaded yet.

    Attributes:
        root: folder that case names are relative to.
        classes: names; labels are indices into them.
        cases: sorted by name.
        multi_label: an image may have several classes, or none.
        table: the table that was read, whose other columns may hold groups; None for folders.
        notes: what the reader saw that deserves a look.
    """

    root: Path
    classes: tuple[str, ...]
    cases: tuple[ImageCase, ...]
    multi_label: bool
    table: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the folder or table."""
        return self.table.stem if self.table is not None else self.root.resolve().name

    @property
    def splits(self) -> tuple[str, ...]:
        """Parts that hold cases, in the order train, val, test, none."""
        present = {case.split for case in self.cases}
        return tuple(split for split in ("train", "val", "test", "") if split in present)

    def part(self, split: str) -> tuple[ImageCase, ...]:
        """Cases of one part."""
        return tuple(case for case in self.cases if case.split == split)

    def case(self, name: str) -> ImageCase:
        """The case of a name.

        Raises:
            InputError: there is none.
        """
        found = self._by_name.get(name)
        if found is None:
            example = f", such as {self.cases[0].name}" if self.cases else ""
            raise InputError(f"{self.root}: has no image {name!r}. Cure: a path relative to this folder{example}")
        return found

    def counts(self, split: str | None = None) -> list[int]:
        """Images per class, of one part or of all."""
        found = Counter(label for case in self.cases if split is None or case.split == split for label in case.labels)
        return [found[index] for index in range(len(self.classes))]

    @cached_property
    def _by_name(self) -> dict[str, ImageCase]:
        return {case.name: case for case in self.cases}


def picture_files(folder: Path, deep: bool = True) -> Iterator[Path]:
    """Images in a folder, by their endings or DICOM's mark, sorted; hidden files and folders are left out.

    Args:
        folder: to look in.
        deep: look in the folders inside as well.
    """
    with os.scandir(folder) as entries:  # tells files from folders without asking for each
        found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in found:
        path = Path(entry.path)
        if entry.is_dir():
            if deep:
                yield from picture_files(path)
        elif image_ending(path) or is_dicom(path):
            yield path


def other_files(folders: Iterable[Path]) -> list[str]:
    """Names of files in folders, and in those inside, that `picture_files` passes over; hidden ones do not count."""
    found = []
    for folder in folders:
        for place, inside, names in os.walk(folder):
            inside[:] = [name for name in inside if not name.startswith(".")]
            paths = [Path(place, name) for name in names if not name.startswith(".")]
            found += [path.name for path in paths if not (image_ending(path) or is_dicom(path))]
    return sorted(found)


def class_order(names: set[str]) -> tuple[str, ...]:
    """Order of classes: by number if all are whole numbers, else by code point as in ImageFolder layouts."""
    if names and all(re.fullmatch(r"-?\d+", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def shortened(names: list[str], limit: int = LISTED_NAMES) -> str:
    """Names for a message, the first of them if there are many."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
