"""Open instance segmentation data of either layout: COCO, or images with label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from monai_ext.datasets.classification_dataset import shortened
from monai_ext.datasets.coco_dataset import is_coco_folder, read_coco
from monai_ext.datasets.instance_dataset import InstanceDataset
from monai_ext.datasets.label_map_dataset import is_label_map_folder, read_instance_map, read_label_maps
from monai_ext.errors import InputError

LAYOUTS = ("auto", "coco", "label_maps")


def open_instances(
    dataset_dir: str | Path,
    layout: str = "auto",
    classes: Sequence[str] = (),
    splits: Mapping[str, str] | None = None,
    skip_broken: bool = False,
) -> InstanceDataset:
    """Read COCO annotations where there are any, else label maps.

    Args:
        dataset_dir: folder; see `read_coco` and `read_label_maps`.
        layout: `auto`, `coco` or `label_maps`, for folders that hold both.
        classes: names in the order that a model has them; for label maps the name of their one class.
        splits: see `read_coco`.
        skip_broken: see `read_coco`; for label maps: images without one, or with a broken one, are left out.

    Raises:
        InputError: no such folder or layout, or as the readers.
    """
    folder = Path(dataset_dir)
    if layout not in LAYOUTS:
        raise InputError(f"--layout {layout}: is not known. Cure: one of {', '.join(LAYOUTS)}")
    if not folder.is_dir():
        raise InputError(f"{folder}: dataset folder does not exist. Cure: correct --dataset_dir")
    if layout == "coco" or (layout == "auto" and is_coco_folder(folder)):
        return read_coco(folder, classes, splits, skip_broken)
    if layout == "auto" and not is_label_map_folder(folder):
        raise InputError(
            f"{folder}: is neither COCO nor images with label maps. Cure: annotations/instances_SPLIT.json and "
            "images/SPLIT, or images/* and labels/* of the same names"
        )
    if len(classes) > 1:
        raise InputError(
            f"{folder}: label maps have one class, the model has {len(classes)}. Cure: data in COCO format"
        )
    name = classes[0] if classes else "object"
    dataset = read_label_maps(folder, name, require_labels=not skip_broken)
    return _without_broken_maps(dataset) if skip_broken else dataset


def _without_broken_maps(dataset: InstanceDataset) -> InstanceDataset:
    """Leave out images whose label map cannot be used, with a note of each."""
    kept, faults = [], []
    for case in dataset.cases:
        try:
            if case.label_path is not None:
                read_instance_map(case.label_path, case.size)
            kept.append(case)
        except InputError as error:
            faults.append(str(error).split(" Cure: ")[0].rstrip("."))
    if not faults:
        return dataset
    note = f"left out: {len(faults)} images whose label map is broken: {shortened(faults)}"
    return replace(dataset, cases=tuple(kept), notes=(*dataset.notes, note))
