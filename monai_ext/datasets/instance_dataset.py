"""What every reader of instance segmentation data returns: images, their objects, and label maps made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from monai_ext.datasets.classification_dataset import shortened
from monai_ext.datasets.coco_masks import PixelRuns, runs_of_label_map, unpack_counts
from monai_ext.errors import InputError

DENSE_VALUES = 2**22  # numbers of objects up to this are looked up in a table


@dataclass(frozen=True, eq=False)
class Annotation:
    """One object of a COCO file.

    Attributes:
        id: of the file.
        label: class, 1 to K.
        crowd: a region of several objects: not trained on, and detections in it count neither way.
        box: (x0, y0, x1, y1) as stated, pixels.
        polygons: outlines (x0, y0, x1, y1, ...) float64 in pixels; empty if there are run lengths.
        counts: run lengths, packed or not; None if there are polygons.
    """

    id: int
    label: int
    crowd: bool
    box: tuple[float, float, float, float]
    polygons: tuple[np.ndarray, ...] = ()
    counts: str | np.ndarray | None = None

    def runs(self, height: int, width: int) -> PixelRuns:
        """The exact mask in an image of that size.

        Raises:
            ValueError: the run lengths are of another size.
        """
        if self.counts is None:
            return PixelRuns.from_polygons(self.polygons, height, width)
        counts = unpack_counts(self.counts) if isinstance(self.counts, str) else self.counts
        return PixelRuns.from_counts(counts, height, width)


@dataclass(frozen=True, eq=False)
class Instances:
    """Objects of one image without overlap.

    Attributes:
        label_map: `[H, W]` int32, 0 for none, i + 1 for object i.
        labels: `[G]` int64, class of each object, 1 to K.
        ids: `[G]` int64, its id in the COCO file, or its value in the label map file.
        crowd: `[H, W]` bool, regions to be ignored; None if there are none.
        hidden: objects left out because others cover them wholly.
    """

    label_map: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    crowd: np.ndarray | None = None
    hidden: int = 0

    def boxes(self) -> np.ndarray:
        """`[G, 4]` float32 (x0, y0, x1, y1), pixel edges, half open."""
        from scipy.ndimage import find_objects

        found = find_objects(self.label_map, max_label=len(self.labels))
        edges = [(x.start, y.start, x.stop, y.stop) for y, x in found]
        return np.array(edges, dtype=np.float32).reshape(-1, 4)


@dataclass(frozen=True, eq=False)
class InstanceCase:
    """One image and where its objects are.

    Attributes:
        name: path of the image relative to the dataset folder, with `/`.
        path: of the image.
        split: `train`, `val`, `test`, or what the dataset calls it; empty where there is none.
        size: (height, width) of the image, as the COCO file or the header of the image states it.
        annotations: objects of a COCO file.
        label_path: label map file; None for COCO.
        image_id: of the COCO file; position in the dataset for label maps.
        attributes: what else is known of the image, such as `type`.
    """

    name: str
    path: Path
    split: str
    size: tuple[int, int]
    annotations: tuple[Annotation, ...] = ()
    label_path: Path | None = None
    image_id: int = 0
    attributes: Mapping[str, str] = field(default_factory=dict)

    def instances(self) -> Instances:
        """Objects of the image; opens the label map file where there is one.

        Raises:
            InputError: the label map cannot be read, has another size than the image or values that are no object.
        """
        if self.label_path is None:
            return paint(self.annotations, *self.size)
        from monai_ext.datasets.label_map_dataset import read_instance_map

        return numbered(read_instance_map(self.label_path, self.size))

    def objects(self) -> tuple[Annotation, ...]:
        """Objects with their exact masks, which may overlap, and crowd regions: what COCO's AP is computed with.

        Raises:
            InputError: as `instances`.
        """
        if self.label_path is None:
            return self.annotations
        found = self.instances()
        runs = runs_of_label_map(found.label_map)
        return tuple(
            Annotation(int(key), int(label), False, one.box(), counts=one.counts())
            for key, label, one in zip(found.ids, found.labels, runs, strict=True)
        )


@dataclass(frozen=True, eq=False)
class InstanceDataset:
    """Images with objects; no pixel is loaded yet.

    Attributes:
        root: folder that case names are relative to.
        classes: names; label i + 1 is class i.
        category_ids: ids of the classes in COCO files, for results.
        cases: sorted by split and name.
        notes: what the reader saw that deserves a look.
    """

    root: Path
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    cases: tuple[InstanceCase, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.root.resolve().name

    @property
    def splits(self) -> tuple[str, ...]:
        """Parts that hold cases: train, val, test, then others by name."""
        known = ("train", "val", "test")
        present = {case.split for case in self.cases}
        return tuple(split for split in known if split in present) + tuple(sorted(present.difference(known)))

    def part(self, split: str) -> tuple[InstanceCase, ...]:
        """Cases of one part."""
        return tuple(case for case in self.cases if case.split == split)

    def case(self, name: str) -> InstanceCase:
        """The case of a name.

        Raises:
            InputError: there is none.
        """
        found = self._by_name.get(name)
        if found is None:
            example = f", such as {self.cases[0].name}" if self.cases else ""
            raise InputError(f"{self.root}: has no image {name!r}. Cure: a path relative to this folder{example}")
        return found

    def where(self, **wanted: str | Sequence[str]) -> InstanceDataset:
        """Only images whose attributes have one of the values, such as `where(type="fluorescence")`.

        Raises:
            InputError: no image has such an attribute, or one of the values; the values there are are named.
        """
        kept: list[InstanceCase] = list(self.cases)
        for key, value in wanted.items():
            values = {value} if isinstance(value, str) else set(value)
            present = {case.attributes[key] for case in self.cases if key in case.attributes}
            if not values <= present:
                keys = sorted({name for case in self.cases for name in case.attributes})
                known = (
                    f"values are {shortened(sorted(present))}" if present else f"there are {shortened(keys) or 'none'}"
                )
                missing = ", ".join(sorted(values - present))
                raise InputError(f"{self.root}: no image has {key} = {missing}. Cure: {known}")
            kept = [case for case in kept if case.attributes.get(key) in values]
        return replace(self, cases=tuple(kept))

    @cached_property
    def _by_name(self) -> dict[str, InstanceCase]:
        return {case.name: case for case in self.cases}


def paint(annotations: Sequence[Annotation], height: int, width: int) -> Instances:
    """Make one label map of masks that may overlap: where they do, the smaller object is seen (ties: the later one).

    A small object on a large one would else vanish; the other way round the large one only gets a hole. Crowd regions
    are kept apart, without the pixels of objects. What is left of an object by others counts as its mask; objects of
    which nothing is left are counted and get no number.
    """
    single = [annotation for annotation in annotations if not annotation.crowd]
    runs = [annotation.runs(height, width) for annotation in single]
    flat = np.zeros(height * width, dtype=np.int32)  # columns first, as COCO counts
    covered = False
    for index in np.argsort([-found.area for found in runs], kind="stable"):
        positions = runs[index].positions()
        covered = covered or bool(flat[positions].any())
        flat[positions] = index + 1
    crowd = None
    if len(single) < len(annotations):
        ignored = np.zeros(height * width, dtype=bool)
        for annotation in annotations:
            if annotation.crowd:
                ignored[annotation.runs(height, width).positions()] = True
        crowd = np.ascontiguousarray((ignored & (flat == 0)).reshape(width, height).T)
    label_map = np.ascontiguousarray(flat.reshape(width, height).T)
    labels = np.array([annotation.label for annotation in single], dtype=np.int64)
    ids = np.array([annotation.id for annotation in single], dtype=np.int64)
    if not covered and all(found.area for found in runs):
        return Instances(label_map, labels, ids, crowd)
    seen = numbered(label_map)
    left = seen.ids - 1
    return Instances(seen.label_map, labels[left], ids[left], crowd, hidden=len(single) - len(left))


def numbered(label_map: np.ndarray) -> Instances:
    """Objects of a label map of one class, whatever numbers it has; they keep their order.

    Args:
        label_map: `[H, W]` whole numbers, 0 for none.
    """
    if not label_map.size:
        return Instances(label_map.astype(np.int32), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    low, high = int(label_map.min()), int(label_map.max())
    if low >= 0 and high <= DENSE_VALUES:  # a table of numbers is much faster than sorting the pixels
        present = np.zeros(high + 1, dtype=bool)
        present[label_map] = True
        present[0] = False
        objects = np.flatnonzero(present)
        renumbered = np.where(present, np.cumsum(present), 0).astype(np.int32)[label_map]
    else:
        values, inverse = np.unique(label_map, return_inverse=True)
        objects = values[values != 0]
        places = np.where(values != 0, np.cumsum(values != 0), 0).astype(np.int32)
        renumbered = places[inverse].reshape(label_map.shape)
    return Instances(renumbered, np.ones(len(objects), dtype=np.int64), objects.astype(np.int64))
