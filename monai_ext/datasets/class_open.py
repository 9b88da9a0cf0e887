"""Open classification data of either layout: folders of classes, or a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from monai_ext.datasets.class_folders import read_class_folders
from monai_ext.datasets.class_table import is_class_table, read_class_table
from monai_ext.datasets.classification_dataset import ClassificationDataset
from monai_ext.errors import InputError


def open_classification(
    dataset_dir: str | Path,
    multi_label: bool | str = "auto",
    image_dir: str | Path = "",
    classes: Sequence[str] = (),
) -> ClassificationDataset:
    """Read a table where there is one, else folders of classes.

    Args:
        dataset_dir: a CSV file, a folder with `labels.csv`, or folders `train/CLASS/*`, `val/CLASS/*` or `CLASS/*`.
        multi_label: True, False, or `auto`: if a table names several labels for an image.
        image_dir: folder that the files of a table are relative to; empty takes the folder of the table.
        classes: names in the order that a model has them, for evaluation; empty takes those of the data.

    Raises:
        InputError: nothing there, a key that is out of range, or as `read_class_folders` and `read_class_table`.
    """
    path = Path(dataset_dir)
    if multi_label not in (True, False, "auto"):
        raise InputError(f"--multi_label {multi_label!r}: is not known. Cure: True, False or auto")
    if is_class_table(path):
        return read_class_table(path, image_dir, multi_label, classes)
    if path.is_file():
        raise InputError(
            f"{path}: is neither a folder nor a CSV table. Cure: train/CLASS/*, val/CLASS/*, or a .csv file"
        )
    if not path.exists():
        raise InputError(f"{path}: dataset does not exist. Cure: correct --dataset_dir")
    dataset = read_class_folders(path, classes)
    # folders name one class per image, but the network may still be asked for a sigmoid per class
    return replace(dataset, multi_label=True) if multi_label is True else dataset
