from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_ext.datasets.conversion import write_dataset
from monai_ext.datasets.image_files import read_image, read_label
from monai_ext.datasets.nnunet_layout import is_nnunet, plan_nnunet
from monai_ext.errors import InputError

Writer = Callable[..., Path]
AFFINE = np.diag([-1.0, 2.0, 3.0, 1.0])


@pytest.fixture
def raw(tmp_path: Path, write_nifti: Writer) -> Callable[..., Path]:
    """An nnU-Net raw dataset of two channels, three labelled cases and one without label."""

    def make(channels: int = 2, **changes: Any) -> Path:
        rng = np.random.default_rng(0)
        for name in ("a", "b", "c", "t"):
            for channel in range(channels):
                part = "Ts" if name == "t" else "Tr"
                voxels = rng.normal(size=(6, 5, 4)).astype(np.float32)
                write_nifti(f"raw/images{part}/{name}_{channel:04d}.nii.gz", voxels, AFFINE)
            if name != "t":
                write_nifti(f"raw/labelsTr/{name}.nii.gz", rng.integers(0, 4, (6, 5, 4)).astype(np.uint8), AFFINE)
        description = {
            "channel_names": {str(i): f"T{i}" for i in range(channels)},
            "labels": {"background": 0, "front": 1, "back": 2, "ignore": 3},
            "numTraining": 3,
            "file_ending": ".nii.gz",
            "licence": "CC0",
        } | changes
        (tmp_path / "raw/dataset.json").write_text(json.dumps(description), encoding="utf-8")
        return tmp_path / "raw"

    return make


def test_channel_files_become_one_file(raw: Callable[..., Path], tmp_path: Path) -> None:
    source = raw()
    assert is_nnunet(source)
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    dataset, reports, warnings = write_dataset(plan_nnunet(source), tmp_path / "new")
    assert warnings == []
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before
    description = json.loads((tmp_path / "new/dataset.json").read_text())
    assert description["modality"] == {"0": "T0", "1": "T1"}
    assert description["labels"] == {"0": "background", "1": "front", "2": "back", "3": "ignore"}
    assert description["numTraining"] == 3
    assert description["licence"] == "CC0"
    assert description["test"] == ["./imagesTs/t.nii.gz"]
    assert [case.name for case in dataset.training] == ["a", "b", "c"]
    assert dataset.ignore_label == 3
    image, geometry = read_image(dataset.training[1].images)
    parts, part_geometry = read_image([source / f"imagesTr/b_000{i}.nii.gz" for i in range(2)])
    np.testing.assert_array_equal(image, parts)
    assert geometry.affine == part_geometry.affine
    assert reports[0].values == (0, 1, 2, 3)


def test_single_files_are_linked(raw: Callable[..., Path], tmp_path: Path) -> None:
    source = raw(channels=1)
    write_dataset(plan_nnunet(source), tmp_path / "new")
    assert (tmp_path / "new/imagesTr/a.nii.gz").samefile(source / "imagesTr/a_0000.nii.gz")
    assert (tmp_path / "new/labelsTr/a.nii.gz").samefile(source / "labelsTr/a.nii.gz")


def test_links_to_elsewhere_are_followed(raw: Callable[..., Path], tmp_path: Path) -> None:
    source = raw(channels=1)
    (tmp_path / "elsewhere").mkdir()
    for path in (source / "imagesTr/a_0000.nii.gz", source / "labelsTr/a.nii.gz"):
        path.rename(tmp_path / "elsewhere" / path.name)
        path.symlink_to(tmp_path / "elsewhere" / path.name)
    write_dataset(plan_nnunet(source), tmp_path / "new")
    assert not (tmp_path / "new/imagesTr/a.nii.gz").is_symlink()
    assert (tmp_path / "new/labelsTr/a.nii.gz").samefile(tmp_path / "elsewhere/a.nii.gz")


def test_version_1_lists_images_without_channel_number(raw: Callable[..., Path], tmp_path: Path) -> None:
    listed = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in "abc"]
    source = raw(modality={"0": "T0", "1": "T1"}, training=listed, test=["./imagesTs/t.nii.gz"])
    description = json.loads((source / "dataset.json").read_text())
    del description["channel_names"], description["file_ending"]
    description["labels"] = {"0": "background", "1": "front", "2": "back", "3": "ignore"}
    (source / "dataset.json").write_text(json.dumps(description))
    dataset, _, _ = write_dataset(plan_nnunet(source), tmp_path / "new")
    assert [case.name for case in dataset.training] == ["a", "b", "c"]
    assert [case.name for case in dataset.test] == ["t"]


def test_regions_are_refused_with_the_reason(raw: Callable[..., Path]) -> None:
    source = raw(labels={"background": 0, "whole": [1, 2], "core": 2})
    with pytest.raises(InputError, match=r"regions are not supported yet, found lists for whole"):
        plan_nnunet(source)


def test_a_decathlon_dataset_needs_no_conversion(msd_folder: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="is in Decathlon form already"):
        plan_nnunet(msd_folder())


def test_headers_with_detached_voxels_become_one_file(tmp_path: Path) -> None:
    import itk

    source, rng = tmp_path / "raw", np.random.default_rng(0)
    for part, names in (("imagesTr", ("a_0000", "b_0000")), ("labelsTr", ("a", "b"))):
        (source / part).mkdir(parents=True)
        for name in names:
            itk.imwrite(
                itk.image_from_array(rng.integers(0, 2, (4, 5, 6)).astype(np.uint8)), source / part / f"{name}.mhd"
            )
    description = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "x": 1}, "file_ending": ".mhd"}
    (source / "dataset.json").write_text(json.dumps(description))
    dataset, _, _ = write_dataset(plan_nnunet(source), tmp_path / "new")
    for new, old in (
        (dataset.training[0].images[0], "imagesTr/a_0000.mhd"),
        (dataset.training[1].label, "labelsTr/b.mhd"),
    ):
        assert new is not None
        np.testing.assert_array_equal(read_label(new)[0], read_label(source / old)[0])
