from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_ext.datasets.msd import read_msd
from monai_ext.errors import InputError

Maker = Callable[..., Path]


def message_of(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_msd(folder)
    assert "Cure: " in str(caught.value)
    return str(caught.value)


def pair(name: str) -> dict[str, str]:
    return {"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"}


def test_decathlon_form(msd_folder: Maker) -> None:
    folder = msd_folder()
    dataset = read_msd(folder)
    assert dataset.name == "Set"
    assert dataset.root == folder
    assert dataset.channels == ("MRI",)
    assert dataset.labels == {"background": 0, "front": 1, "back": 2}
    assert [case.name for case in dataset.training] == ["a", "b", "c"]  # sorted, whatever the order in the file
    assert dataset.training[0].images == (folder / "imagesTr/a.nii.gz",)
    assert dataset.training[0].label == folder / "labelsTr/a.nii.gz"
    assert [(case.name, case.label) for case in dataset.test] == [("t", None)]
    assert dataset.spatial_dims == 3
    assert dataset.ignore_label is None


def test_hidden_files_are_no_cases(msd_folder: Maker) -> None:
    folder = msd_folder(training=None, test=[], file_ending=".nii.gz")
    shutil.rmtree(folder / "imagesTs")
    for name in "abc":
        (folder / f"imagesTr/{name}.nii.gz").rename(folder / f"imagesTr/{name}_0000.nii.gz")
        (folder / f"imagesTr/._{name}_0000.nii.gz").touch()
    assert [case.name for case in read_msd(folder).training] == ["a", "b", "c"]


def test_nnunet_form_without_list(msd_folder: Maker) -> None:
    folder = msd_folder(
        name=None,
        modality=None,
        channel_names={"0": "T1", "1": "T2"},
        labels={"background": 0, "front": 1, "back": 2, "ignore": 3},
        training=None,
        test=[],
        file_ending=".nii.gz",
        numTraining=3,
    )
    for path in [*folder.glob("images*/*.nii.gz")]:
        stem = path.name.removesuffix(".nii.gz")
        shutil.copy(path, path.with_name(f"{stem}_0001.nii.gz"))
        path.rename(path.with_name(f"{stem}_0000.nii.gz"))
    dataset = read_msd(folder)
    assert dataset.name == "set"
    assert dataset.channels == ("T1", "T2")
    assert dataset.ignore_label == 3
    assert dataset.foreground_classes == {"front": 1, "back": 2}
    assert dataset.training[1].name == "b"
    assert [p.name for p in dataset.training[1].images] == ["b_0000.nii.gz", "b_0001.nii.gz"]
    assert dataset.training[1].label == folder / "labelsTr/b.nii.gz"
    assert [case.name for case in dataset.test] == ["t"]
    (folder / "imagesTr/b_0000.nii.gz").unlink()
    (folder / "labelsTr/c.nii.gz").unlink()
    text = message_of(folder)
    assert "b: has channels 0001, dataset.json names 2" in text
    assert "labelsTr/c.nii.gz: is listed but does not exist" in text


def test_list_of_channel_files(msd_folder: Maker) -> None:
    folder = msd_folder(modality=["T1", "T2"])
    for path in [*folder.glob("imagesTr/*.nii.gz")]:
        for channel in range(2):
            shutil.copy(path, path.with_name(f"{path.name[0]}_000{channel}.nii.gz"))
    names = [[f"imagesTr/{n}_000{c}.nii.gz" for c in range(2)] for n in "ab"]
    folder = msd_folder(
        modality=["T1", "T2"],
        training=[{"image": images, "label": f"labelsTr/{n}.nii.gz"} for n, images in zip("ab", names, strict=True)],
        test=[{"image": ["imagesTr/c_0000.nii.gz", "imagesTr/c_0001.nii.gz"]}],
    )
    dataset = read_msd(folder)
    assert [case.name for case in (*dataset.training, *dataset.test)] == ["a", "b", "c"]
    assert [len(case.images) for case in dataset.training] == [2, 2]


def test_number_at_the_end_of_a_name_is_kept_unless_the_label_lacks_it(msd_folder: Maker) -> None:
    folder = msd_folder(
        training=[
            {"image": "imagesTr/a_0000.nii.gz", "label": "labelsTr/a.nii.gz"},
            {"image": "imagesTr/b_0000.nii.gz", "label": "labelsTr/b_0000.nii.gz"},
        ]
    )
    for file in ("imagesTr/a", "imagesTr/b", "labelsTr/b"):
        (folder / f"{file}.nii.gz").rename(folder / f"{file}_0000.nii.gz")
    assert [case.name for case in read_msd(folder).training] == ["a", "b_0000"]


@pytest.mark.parametrize(("size", "dims"), [("2D", 2), ("3D", 3), ("4D", 3), (None, 3)])
def test_dimensions(size: str | None, dims: int, msd_folder: Maker) -> None:
    assert read_msd(msd_folder(tensorImageSize=size)).spatial_dims == dims


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"labels": None}, ["labels: is missing"]),
        ({"labels": ["background", "front"]}, ["labels: ", 'found ["background", "front"]']),
        ({"labels": {"0": "background"}}, ["labels: ", "at least 2 items"]),
        ({"labels": {"0": "background", "2": "x"}}, ["labels: values must be consecutive from 0, found 0, 2"]),
        ({"labels": {"1": "background", "2": "x"}}, ["consecutive from 0, found 1, 2"]),
        ({"labels": {"0": "background", "x": "y"}}, ["value of 'y' must be an integer, found x"]),
        ({"labels": {"background": 0, "x": 1.5}}, ["value of 'x' must be an integer, found 1.5"]),
        ({"labels": {"0": "background", "1": "x", "2": "x"}}, ["two classes are named 'x'"]),
        ({"labels": {"background": 0, "ignore": 1, "x": 2}}, ["'ignore' must have the highest value, found 1"]),
        ({"labels": {"background": 0, "whole": [1, 2], "core": [2]}}, ["regions are not supported yet", "whole, core"]),
        ({"modality": None}, ["neither 'modality' nor 'channel_names'"]),
        ({"modality": {"0": "T1", "2": "T2"}}, ["modality: channels must be numbered '0' to '1', found 0, 2"]),
        ({"modality": 3}, ["modality: ", "found 3"]),
        ({"tensorImageSize": "5D"}, ["tensorImageSize must be 2D, 3D or 4D, found 5D"]),
        ({"numTraining": 4}, ["numTraining is 4, but 'training' lists 3 cases"]),
        ({"training": []}, ["'training' is empty"]),
        ({"training": [pair("a")]}, ["'training' has one case"]),
        ({"training": "imagesTr"}, ["training: ", 'found "imagesTr"']),
        ({"training": [{"label": "x"}, pair("a")]}, ["training.0.image: is missing"]),
        ({"training": [pair("a"), {"image": "imagesTr/b.nii.gz"}]}, ["b: is a training case without 'label'"]),
        ({"training": [pair("a"), pair("b"), pair("a")]}, ["a: is the name of 2 cases"]),
        ({"test": ["imagesTr/a.nii.gz"]}, ["a: is the name of 2 cases"]),
        ({"training": [pair("a"), pair("bb")]}, ["imagesTr/bb.nii.gz: is listed but does not exist (nearest name: "]),
        ({"training": [pair("a"), {"image": "dataset.json", "label": "labelsTr/b.nii.gz"}]}, ["unknown image format"]),
        ({"training": [pair("a"), {"image": "../b.nii.gz", "label": "/b.nii.gz"}]}, ["../b.nii.gz: leaves", "/b.nii"]),
        ({"training": [pair("a"), {"image": [], "label": "labelsTr/b.nii.gz"}]}, ["an empty list of images"]),
        (
            {"training": [pair("a"), {"image": ["imagesTr/b.nii.gz"] * 2, "label": "labelsTr/b.nii.gz"}]},
            ["b: lists 2 images, dataset.json names 1 channels"],
        ),
        ({"training": None}, ["imagesTr/a.nii.gz: has no channel number", "rename to a_0000.nii.gz"]),
    ],
)
def test_bad_descriptions_are_refused(changes: dict[str, Any], messages: list[str], msd_folder: Maker) -> None:
    text = message_of(msd_folder(**changes))
    for message in messages:
        assert message in text


def test_all_problems_are_in_one_error(msd_folder: Maker) -> None:
    folder = msd_folder(
        modality={"1": "MRI"}, labels={"0": "background", "3": "x"}, training=[pair("a"), pair("z")], numTraining=9
    )
    text = message_of(folder)
    assert text.startswith(f"dataset {folder}: 5 problems\n")
    assert text.count("Cure: ") == 5


def test_link_out_of_the_folder_is_refused(msd_folder: Maker, tmp_path: Path) -> None:
    folder = msd_folder()
    (folder / "imagesTr/a.nii.gz").rename(tmp_path / "elsewhere.nii.gz")
    (folder / "imagesTr/a.nii.gz").symlink_to(tmp_path / "elsewhere.nii.gz")
    assert "./imagesTr/a.nii.gz: leaves the dataset folder" in message_of(folder)


def test_link_to_the_dataset_itself_is_fine(msd_folder: Maker, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(msd_folder())
    assert len(read_msd(tmp_path / "link").training) == 3


def test_missing_folder_names_the_nearest(msd_folder: Maker, tmp_path: Path) -> None:
    folder = msd_folder()
    assert "sett: dataset folder does not exist (nearest name: set)" in message_of(tmp_path / "sett")
    assert f"has no dataset.json; did you mean {folder}?" in message_of(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"labels": {\n "0": "background",\n}}', "not JSON, line "),
        (b"[1]", "must be an object {...}, found list"),
        (b'{"name": "\xff"}', "not UTF-8"),
    ],
)
def test_files_that_are_no_description(content: bytes, message: str, msd_folder: Maker) -> None:
    folder = msd_folder()
    (folder / "dataset.json").write_bytes(content)
    text = message_of(folder)
    assert message in text
    assert "dataset.json" in text
    if message.startswith("not JSON"):
        assert "line 2, column 20" in text or "line 3, column 1" in text  # Python versions differ on trailing commas


def nnunet_pictures(folder: Path, channels: int, ending: str = ".png") -> Path:
    """Two colour pictures in nnU-Net's form, all channels in one file `CASE_0000.png`; no image is opened here."""
    for part, mark in (("imagesTr", "_0000"), ("labelsTr", "")):
        (folder / part).mkdir(parents=True)
        for name in "ab":
            (folder / part / f"{name}{mark}{ending}").touch()
    description = {
        "channel_names": {str(i): "RGB"[i] for i in range(channels)},
        "labels": {"background": 0, "cell": 1},
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


def test_colour_pictures_hold_all_channels_in_one_file(tmp_path: Path) -> None:
    dataset = read_msd(nnunet_pictures(tmp_path / "set", channels=3))
    assert [(case.name, len(case.images)) for case in dataset.training] == [("a", 1), ("b", 1)]
    assert dataset.channels == ("R", "G", "B")
    assert dataset.spatial_dims == 2  # PNG files have one slice
    (tmp_path / "set/imagesTr/a_0000.png").rename(tmp_path / "set/imagesTr/a_0001.png")
    assert "a: has channels 0001, dataset.json names 3" in message_of(tmp_path / "set")


def test_tiff_may_be_volumes_and_what_is_said_counts(tmp_path: Path) -> None:
    assert read_msd(nnunet_pictures(tmp_path / "tiff", channels=1, ending=".tif")).spatial_dims == 3
    folder = nnunet_pictures(tmp_path / "png", channels=1)
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    (folder / "dataset.json").write_text(json.dumps(description | {"tensorImageSize": "3D"}), encoding="utf-8")
    assert read_msd(folder).spatial_dims == 3


def test_version_1_of_nnunet_lists_no_channel_numbers(msd_folder: Maker) -> None:
    folder = msd_folder(modality={"0": "T1", "1": "T2"}, test=[])
    shutil.rmtree(folder / "imagesTs")
    for name in "abc":
        path = folder / f"imagesTr/{name}.nii.gz"
        shutil.copy(path, folder / f"imagesTr/{name}_0001.nii.gz")
        path.rename(folder / f"imagesTr/{name}_0000.nii.gz")
    dataset = read_msd(folder)
    assert [case.name for case in dataset.training] == ["a", "b", "c"]
    assert [path.name for path in dataset.training[0].images] == ["a_0000.nii.gz", "a_0001.nii.gz"]


@pytest.mark.real_data
def test_hippocampus(data_folder: Path) -> None:
    dataset = read_msd(data_folder / "Task04_Hippocampus")
    assert (len(dataset.training), len(dataset.test)) == (200, 20)
    assert dataset.labels == {"background": 0, "Anterior": 1, "Posterior": 2}
