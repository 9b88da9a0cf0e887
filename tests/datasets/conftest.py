"""Small files that several tests of the readers need."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

Writer = Callable[..., Path]


@pytest.fixture
def write_nifti(tmp_path: Path) -> Writer:
    """Write an array `[x, y, z, ...]` under a name relative to the test's folder."""

    def write(name: str, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
        return path

    return write


@pytest.fixture
def msd_folder(tmp_path: Path, write_nifti: Writer) -> Callable[..., Path]:
    """A correct dataset of three labelled cases and one test case; fields of dataset.json can be replaced."""

    def make(**changes: Any) -> Path:
        rng = np.random.default_rng(0)
        for name in ("a", "b", "c", "t"):
            part = "Ts" if name == "t" else "Tr"
            write_nifti(f"set/images{part}/{name}.nii.gz", rng.normal(size=(6, 5, 4)).astype(np.float32))
            if name != "t":
                label = rng.integers(0, 3, (6, 5, 4)).astype(np.uint8)
                write_nifti(f"set/labelsTr/{name}.nii.gz", label)
        description: dict[str, Any] = {
            "name": "Set",
            "tensorImageSize": "3D",
            "modality": {"0": "MRI"},
            "labels": {"0": "background", "1": "front", "2": "back"},
            "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in "bac"],
            "test": ["./imagesTs/t.nii.gz"],
        }
        description |= changes
        for key in [key for key, value in description.items() if value is None]:
            del description[key]
        (tmp_path / "set" / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
        return tmp_path / "set"

    return make
