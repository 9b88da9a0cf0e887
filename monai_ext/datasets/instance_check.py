"""Open the objects of every image once: what would stop a training, what is beyond the caps, and how it all looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from monai_ext.datasets.classification_dataset import shortened
from monai_ext.datasets.instance_dataset import InstanceCase, InstanceDataset
from monai_ext.errors import InputError, Problems

PERCENTILES = (1, 5, 25, 50, 75, 95, 99, 100)
SMALL, MEDIUM = 32**2, 96**2  # pixels: COCO's limits of size classes


@dataclass(frozen=True)
class InstanceReport:
    """What was found in instance segmentation data.

    Attributes:
        name: of the dataset.
        images, objects: by part.
        class_objects: objects by class, all parts.
        empty_images: without object, by part.
        crowds: crowd regions.
        per_image: percentiles 1, 5, 25, 50, 75, 95, 99, 100 of objects per image.
        box_edges: the same of the square root of the area of boxes, pixels.
        aspects: the same of height / width of boxes.
        size_shares: of small, medium and large objects as COCO divides them.
        warnings: what deserves a look.
    """

    name: str
    images: Mapping[str, int]
    objects: Mapping[str, int]
    class_objects: Mapping[str, int]
    empty_images: Mapping[str, int]
    crowds: int
    per_image: tuple[float, ...]
    box_edges: tuple[float, ...]
    aspects: tuple[float, ...]
    size_shares: tuple[float, float, float]
    warnings: tuple[str, ...] = ()

    def describe(self) -> str:
        """Text for the log."""
        total = sum(self.objects.values())
        lines = [f"{self.name}: {sum(self.images.values())} images, {total} objects, {self.crowds} crowd regions"]
        for split, count in self.images.items():
            without = f", {self.empty_images[split]} images without" if self.empty_images[split] else ""
            lines.append(f"{split or 'images'}: {count} images, {self.objects[split]} objects{without}")
        lines.append("classes: " + shortened([f"{name} {count}" for name, count in self.class_objects.items()], 20))
        heads = " ".join(f"{p:>7}" for p in PERCENTILES)
        lines.append(f"{'percentile':22}{heads}")
        rows = (("objects per image", self.per_image), ("box edge (pixels)", self.box_edges))
        for title, values in (*rows, ("height / width", self.aspects)):
            lines.append(f"{title:22}" + " ".join(f"{value:7.4g}" for value in values))
        small, medium, large = (f"{100 * share:.1f} %" for share in self.size_shares)
        lines.append(f"size: small {small}, medium {medium}, large {large} (areas below 32^2, 96^2, above)")
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])


@dataclass(frozen=True)
class _Found:
    """Objects of one image."""

    case: InstanceCase
    areas: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowds: int
    hidden: int
    scattered: bool = False  # a label map of one object only, in parts that do not touch


def check_instances(
    dataset: InstanceDataset, max_objects: int = 0, max_detections: int = 0, training: bool = True
) -> InstanceReport:
    """Make the label map of every image.

    Args:
        dataset: from `open_instances`.
        max_objects: most objects of an image or crop that are trained on; 0 has no cap.
        max_detections: most detections of an image; 0 has no cap.
        training: a dataset without objects to train on is refused.

    Raises:
        InputError: one error with all problems: label maps that cannot be read, of another size or not of whole
            numbers; no object in the whole set, or none to train on.
    """
    problems, warnings = Problems(f"objects of {dataset.name}"), list(dataset.notes)
    found: list[_Found] = []
    for case in dataset.cases:
        if case.label_path is None and not case.annotations and case.split == "test":
            continue  # images to be predicted
        try:
            found.append(_inspect(case))
        except InputError as error:
            problems.lines.append(str(error))
    if not len(problems):
        _check_counts(dataset, found, training, problems)
    problems.raise_if_any()
    counts = {one.case.name: len(one.areas) for one in found}
    _warn_of_caps(counts, max_objects, max_detections, warnings)
    hidden = {one.case.name: one.hidden for one in found if one.hidden}
    if hidden:
        listed = shortened([f"{name} {count}" for name, count in hidden.items()])
        warnings.append(f"{sum(hidden.values())} objects lie wholly under smaller ones and are left out: {listed}")
    maps = [one for one in found if one.case.label_path is not None and len(one.areas)]
    if len(maps) > 1 and all(len(one.areas) == 1 for one in maps) and any(one.scattered for one in maps):
        warnings.append(
            "every label map holds one object only, in parts that do not touch, as masks of all objects do: give each "
            "object a number of its own, such as by scipy.ndimage.label"
        )
    labels = np.concatenate([one.labels for one in found])
    per_class = np.bincount(labels, minlength=len(dataset.classes) + 1)[1:]
    for name, count in zip(dataset.classes, per_class.tolist(), strict=True):
        if not count:
            warnings.append(f"class '{name}' has no object")
    boxes = np.concatenate([one.boxes for one in found]).astype(np.float64)
    areas = np.concatenate([one.areas for one in found])
    sides = boxes[:, 2:] - boxes[:, :2]
    small, medium = float((areas < SMALL).mean()), float(((areas >= SMALL) & (areas < MEDIUM)).mean())
    splits = dataset.splits
    return InstanceReport(
        name=dataset.name,
        images={split: len(dataset.part(split)) for split in splits},
        objects={split: sum(len(one.areas) for one in found if one.case.split == split) for split in splits},
        class_objects=dict(zip(dataset.classes, per_class.tolist(), strict=True)),
        empty_images={split: sum(not len(one.areas) for one in found if one.case.split == split) for split in splits},
        crowds=sum(one.crowds for one in found),
        per_image=_percentiles(np.array(list(counts.values()))),
        box_edges=_percentiles(np.sqrt(sides.prod(axis=1))),
        aspects=_percentiles(sides[:, 1] / sides[:, 0]),
        size_shares=(small, medium, max(0.0, 1 - small - medium)),
        warnings=tuple(warnings),
    )


def _inspect(case: InstanceCase) -> _Found:
    instances = case.instances()
    areas = np.bincount(instances.label_map.ravel(), minlength=len(instances.labels) + 1)[1:]
    crowds = sum(annotation.crowd for annotation in case.annotations)
    scattered = False
    if case.label_path is not None and len(areas) == 1:
        from scipy.ndimage import label

        scattered = label(instances.label_map, np.ones((3, 3)))[1] > 1
    return _Found(case, areas, instances.boxes(), instances.labels, crowds, instances.hidden, scattered)


def _check_counts(dataset: InstanceDataset, found: list[_Found], training: bool, problems: Problems) -> None:
    total = sum(len(one.areas) for one in found)
    trained = sum(len(one.areas) for one in found if one.case.split in ("train", ""))
    if not total:
        problems.add("objects", f"none in {len(found)} images", "annotate objects, or export the annotations again")
    elif training and not trained and any(split in ("train", "") for split in dataset.splits):
        problems.add("objects", f"none in the part to train on, {total} in others", "annotate training images")


def _warn_of_caps(counts: Mapping[str, int], max_objects: int, max_detections: int, warnings: list[str]) -> None:
    caps = (
        (max_objects, "max_objects", "as many, drawn anew for each crop, are trained on"),
        (max_detections, "max_detections", "as many can be found"),
    )
    for cap, key, what in caps:
        over = {name: count for name, count in counts.items() if count > cap}
        if cap and over:
            lost = sum(over.values()) - cap * len(over)
            most = max(over, key=lambda name: over[name])
            warnings.append(
                f"{len(over)} images hold more than {key} = {cap} objects, {lost} in excess, most {over[most]} in "
                f"{most}: {what}"
            )


def _percentiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in np.percentile(values, PERCENTILES))
