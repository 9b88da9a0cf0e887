"""From the values that masks happen to hold to consecutive classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.datasets.geometry import Geometry
from monai_ext.datasets.image_files import read_image, read_label
from monai_ext.datasets.itk_files import picture_channels
from monai_ext.errors import InputError, Problems

# without names, more classes than these are taken for grey values of a resized mask, and fewer for numbered objects
# if every mask holds 1, 2, ... to a number of its own
MOST_CLASSES, MOST_NUMBERED = 64, 8
LISTED_VALUES = 12


@dataclass(frozen=True)
class ClassValues:
    """How stored values become classes.

    Attributes:
        classes: stored value to class, ascending classes from 0; unused with `above`.
        above: values above it are class 1, others 0; None uses `classes`.
        colour_files: masks stored as colour pictures with equal channels, which must be written anew.
    """

    classes: Mapping[int, int]
    above: int | None = None
    colour_files: frozenset[Path] = frozenset()

    def apply(self, labels: np.ndarray) -> np.ndarray:
        """Stored `[D, H, W]` integers -> classes of the same shape, uint8 or uint16."""
        if self.above is not None:
            return (labels > self.above).astype(np.uint8)
        stored = np.array(sorted(self.classes))
        wanted = np.array([self.classes[int(value)] for value in stored])
        place = np.searchsorted(stored, labels)
        if place.size and (place.max() >= len(stored) or (stored[place] != labels).any()):
            raise ValueError("labels hold values that were not there when the masks were listed")
        return wanted[place].astype(np.uint8 if wanted.max() < 256 else np.uint16)

    def is_colour(self, path: Path) -> bool:
        """Whether the mask is a colour picture."""
        return path in self.colour_files

    def to_dict(self) -> dict[str, Any]:
        """For `dataset.json`."""
        if self.above is not None:
            return {"label_values": f"above {self.above}: 1, else 0"}
        return {"label_values": {str(value): label for value, label in self.classes.items()}}

    def describe(self, labels: Mapping[str, int]) -> list[str]:
        """One line per class: the stored value and what it becomes."""
        names = {value: name for name, value in labels.items()}
        if self.above is not None:
            return [f"value up to {self.above} -> 0 {names[0]}", f"value above {self.above} -> 1 {names[1]}"]
        return [f"value {value} -> {label} {names[label]}" for value, label in self.classes.items()]


def read_mask(path: Path) -> tuple[np.ndarray, Geometry]:
    """Read a label map; unlike `read_label` it may be a colour picture with equal channels.

    Returns:
        Labels `[D, H, W]` and the geometry.

    Raises:
        InputError: as `read_label`; colours that are no grey values.
    """
    try:
        return read_label(path)
    except InputError:
        if picture_channels(path) != 3 or path.suffix.lower() in (".jpg", ".jpeg"):
            raise
    image, geometry = read_image([path])
    if (image != image[:1]).any():
        colours = np.unique(image.reshape(len(image), -1), axis=1)
        shown = ", ".join(str(tuple(int(v) for v in colours[:, i])) for i in range(min(4, colours.shape[1])))
        raise InputError(
            f"{path}: is a mask in colours (R, G, B) such as {shown}. Cure: save it with one grey value or palette "
            "index per class"
        )
    return image[0].astype(np.int32), geometry


def list_values(masks: Iterable[Path], problems: Problems) -> tuple[dict[Path, tuple[int, ...]], frozenset[Path]]:
    """Open all masks.

    Args:
        masks: files.
        problems: gets what cannot be read.

    Returns:
        The values that each mask holds, and the masks that are colour pictures.
    """
    values, colours = dict[Path, tuple[int, ...]](), set[Path]()
    for path in masks:
        try:
            labels, _ = read_mask(path)
        except InputError as error:
            problems.lines.append(str(error))
            continue
        values[path] = tuple(int(v) for v in np.unique(labels))
        if labels.dtype == np.int32:  # only colour pictures come back as int32
            colours.add(path)
    return values, frozenset(colours)


def choose_classes(
    found: Mapping[Path, tuple[int, ...]],
    names: Sequence[str],
    problems: Problems,
    above: int | None = None,
    background: int | None = None,
    known: Mapping[int, str] | None = None,
    colour_files: frozenset[Path] = frozenset(),
) -> tuple[ClassValues, dict[str, int]]:
    """Number the values that masks hold from 0: the background value first, others ascending.

    Args:
        found: values of each mask.
        names: of the classes in that order; empty gives names from `known`, or `class_1`, `class_2`, ...
        problems: gets what does not fit.
        above: values above it are class 1, all others 0.
        background: stored value of class 0; None is the lowest one.
        known: names by stored value, from a table beside the masks. If it numbers classes from 0 without gaps and
            covers all values, they stay as they are, those that no mask holds as well.

    Returns:
        How values become classes, and class name to value.
    """
    counts = Counter(value for values in found.values() for value in values)
    if above is not None:
        chosen = list(names) or ["background", "foreground"]
        if len(chosen) != 2:
            problems.add("--labels", f"--above gives two classes, {len(chosen)} names are given", "give two names")
        if not any(value > above for value in counts):
            problems.add("--above", f"no mask holds a value above {above}", f"values are {_listed(counts)}")
        return ClassValues({}, above, colour_files), {name: value for value, name in enumerate(chosen[:2])}
    values = sorted(counts)
    named = dict(known or {})
    numbered = sorted({0, *named})
    keep = bool(named) and background in (None, 0) and numbered == list(range(len(numbered)))
    if keep and set(values) <= set(numbered):
        values = numbered
    if background is not None and background not in counts:
        problems.add("--background", f"no mask holds the value {background}", f"choose one of {_listed(counts)}")
    elif background is not None:
        values = [background, *(value for value in values if value != background)]
    _check_values(found, values, problems, named=len(names) == len(values) or keep)
    if names and len(names) != len(values):
        what = f"{len(names)} names are given ({', '.join(names)}), masks hold {len(values)} values: {_listed(values)}"
        problems.add("--labels", what, "one name per value, in this order; or --above 0 for objects against background")
    chosen = list(names) if len(names) == len(values) else [_name(i, v, values, named) for i, v in enumerate(values)]
    twice = sorted(name for name, count in Counter(chosen).items() if count > 1)
    if twice:
        problems.add("class names", f"used for two values: {', '.join(twice)}", "give each class its own name")
    classes = {value: index for index, value in enumerate(values)}
    return ClassValues(classes, colour_files=colour_files), {name: index for index, name in enumerate(chosen)}


def _check_values(
    found: Mapping[Path, tuple[int, ...]], values: Sequence[int], problems: Problems, named: bool
) -> None:
    if found and len(values) < 2:
        problems.add("masks", f"hold one value only: {_listed(values)}", "give masks that mark something")
    if not named and (len(values) > MOST_CLASSES or _are_numbered_objects(found)):
        most = max(found, key=lambda path: len(found[path]))
        problems.add(
            "masks",
            f"hold {len(values)} values ({_listed(values)}; most of them, {len(found[most])}, in {most.name})",
            "numbered objects become one class with --above 0, masks resized with smoothing with --above 127; "
            "if they are classes, name them all with --labels",
        )


def _are_numbered_objects(found: Mapping[Path, tuple[int, ...]]) -> bool:
    """Every mask holds 1, 2, ... to the number of its objects, which differs between masks."""
    objects = [[value for value in values if value] for values in found.values()]
    consecutive = all(values == list(range(1, len(values) + 1)) for values in objects)
    highest = {len(values) for values in objects}
    return consecutive and max(highest, default=0) > MOST_NUMBERED and len(highest) > 1


def _name(index: int, value: int, values: Sequence[int], known: Mapping[int, str]) -> str:
    if value in known:
        return known[value]
    if index == 0:
        return "background"
    return "foreground" if len(values) == 2 and not known else f"class_{index}"


def _listed(values: Iterable[int]) -> str:
    ordered = list(values)
    more = f" and {len(ordered) - LISTED_VALUES} more" if len(ordered) > LISTED_VALUES else ""
    return ", ".join(str(v) for v in ordered[:LISTED_VALUES]) + more
