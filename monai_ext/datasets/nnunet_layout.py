"""nnU-Net raw datasets (v1 and v2) as a source of conversion."""

from __future__ import annotations

import json
from pathlib import Path

from monai_ext.datasets.conversion import ConversionPlan
from monai_ext.datasets.file_names import image_ending
from monai_ext.datasets.msd import read_msd
from monai_ext.errors import InputError

KEPT_FIELDS = ("description", "reference", "licence", "license", "release")


def is_nnunet(folder: Path) -> bool:
    """A folder with `dataset.json` and `imagesTr`."""
    return (folder / "dataset.json").is_file() and (folder / "imagesTr").is_dir()


def plan_nnunet(folder: Path) -> ConversionPlan:
    """Plan the conversion of an nnU-Net raw dataset: `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`.

    Raises:
        InputError: files or entries of `dataset.json` do not fit together (regions among them), or the folder is in
            Decathlon form already.
    """
    dataset = read_msd(folder)
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8-sig"))
    listed = [entry.get("image") for entry in content.get("training") or [] if isinstance(entry, dict)]
    if listed and "modality" in content and all(isinstance(i, str) and (folder / i).exists() for i in listed):
        raise InputError(
            f"{folder}: is in Decathlon form already. Cure: use it as it is (--dataset_dir {folder}), or check it with "
            f"python -m monai_ext dataset check {folder}"
        )
    cases = (*dataset.training, *dataset.test)
    notes = []
    if any(len(case.images) > 1 for case in cases):
        notes.append(f"{len(dataset.channels)} channel files of a case become one 4D file")
    endings = sorted({image_ending(path) for case in cases for path in case.images})
    return ConversionPlan(
        layout="nnunet",
        channels=dataset.channels,
        labels=dataset.labels,
        cases=cases,
        spatial_dims=dataset.spatial_dims,
        about={key: content[key] for key in KEPT_FIELDS if isinstance(content.get(key), str)},
        notes=(*notes, f"files: {', '.join(endings)}"),
    )
