from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.datasets.image_files import find_inputs
from monai_ext.errors import InputError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


def found(folder: Path, num_channels: int) -> dict[str, list[str]]:
    return {case.name: [p.name for p in case.images] for case in find_inputs(folder, num_channels)}


def test_one_file_is_one_case(tmp_path: Path) -> None:
    touch(tmp_path, "Brain.1.nii.gz", "other.nii.gz")
    assert found(tmp_path / "Brain.1.nii.gz", 1) == {"Brain.1": ["Brain.1.nii.gz"]}
    assert found(tmp_path / "Brain.1.nii.gz", 4) == {"Brain.1": ["Brain.1.nii.gz"]}  # may be 4D


def test_one_channel_file_brings_its_siblings(tmp_path: Path) -> None:
    touch(tmp_path, "x_0000.nii.gz", "x_0001.nii.gz", "y_0000.nii.gz", "y_0001.nii.gz")
    assert found(tmp_path / "x_0000.nii.gz", 2) == {"x": ["x_0000.nii.gz", "x_0001.nii.gz"]}


def test_folder_gives_one_case_per_file(tmp_path: Path) -> None:
    touch(tmp_path, "b.nii.gz", "a.nrrd", "c_0000.nii.gz", "d_0007.nii", "._b.nii.gz", "notes.txt", ".a.nii.gz")
    assert found(tmp_path, 1) == {
        "a": ["a.nrrd"],
        "b": ["b.nii.gz"],
        "c": ["c_0000.nii.gz"],
        "d_0007": ["d_0007.nii"],
    }


def test_channel_files_are_joined_by_case(tmp_path: Path) -> None:
    touch(tmp_path, "x_0001.nii.gz", "x_0000.nii.gz", "y.nii.gz")
    assert found(tmp_path, 2) == {"x": ["x_0000.nii.gz", "x_0001.nii.gz"], "y": ["y.nii.gz"]}


@pytest.mark.parametrize(
    ("names", "num_channels", "message"),
    [
        (("a.nii.gz", "a.nii"), 1, "a: several inputs would give the same output name: a.nii, a.nii.gz"),
        (("a.nii.gz", "a_0000.nii.gz"), 1, "a: several inputs would give the same output name"),
        (("a_0000.nii.gz",), 2, "a: expected 2 channels (a_0000, a_0001), found a_0000.nii.gz"),
        (("a_0000.nii.gz", "a_0001.nii.gz", "a_0002.nii.gz"), 2, "a: expected 2 channels"),
        (("a_0000.nii.gz", "a_0000.nrrd", "a_0001.nii.gz"), 2, "a: several inputs would give the same"),
        (("notes.txt",), 1, "holds no image"),
        ((), 1, "holds no image"),
    ],
)
def test_folders_that_are_refused(names: tuple[str, ...], num_channels: int, message: str, tmp_path: Path) -> None:
    touch(tmp_path, *names)
    with pytest.raises(InputError) as caught:
        find_inputs(tmp_path, num_channels)
    assert message in str(caught.value)
    assert "Cure: " in str(caught.value)


def test_all_problems_of_a_folder_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.nii.gz", "b_0001.nii.gz", "c_0000.nii.gz", "c_0001.nii.gz")
    with pytest.raises(InputError, match="2 problems"):
        find_inputs(tmp_path, 2)


@pytest.mark.parametrize("ending", [".dcm", ""])
def test_folder_with_a_dicom_series_is_one_case(ending: str, dicom_series: Callable[..., Path]) -> None:
    folder = dicom_series("patient", np.zeros((3, 4, 5), np.int16), ending=ending)
    (folder / "report").write_text("not DICOM", encoding="utf-8")
    (case,) = find_inputs(folder, 1)
    assert (case.name, case.images) == ("patient", (folder,))
    with pytest.raises(InputError, match="is one channel, the network expects 2"):
        find_inputs(folder, 2)


def test_several_series_in_one_folder_are_listed(dicom_series: Callable[..., Path]) -> None:
    dicom_series("patient", np.zeros((3, 4, 5), np.int16), uid="1.2.3.4")
    folder = dicom_series("patient", np.zeros((2, 4, 5), np.int16), uid="1.2.3.5")
    with pytest.raises(InputError) as caught:
        find_inputs(folder, 1)
    text = str(caught.value)
    assert "found 2" in text
    assert "1.2.3.4" in text
    assert "(3 files)" in text
    assert "1.2.3.5" in text
    assert "(2 files)" in text
    assert "Cure: move each series to a folder of its own" in text


def test_single_files_that_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "slice.dcm", "notes.txt")
    with pytest.raises(InputError, match=r"slice\.dcm: is one file of a DICOM series.*Cure: give the folder"):
        find_inputs(tmp_path / "slice.dcm", 1)
    with pytest.raises(InputError, match=r"notes\.txt: unknown image format.*Cure: "):
        find_inputs(tmp_path / "notes.txt", 1)
    with pytest.raises(InputError, match=r"none: does not exist.*Cure: "):
        find_inputs(tmp_path / "none", 1)


def test_numbered_colour_pictures_are_a_case_each(tmp_path: Path) -> None:
    colours = Image.fromarray(np.zeros((4, 5, 3), np.uint8))
    for name in ("frame_0000", "frame_0001", "frame_0002", "single_0000"):
        colours.save(tmp_path / f"{name}.png")
    assert found(tmp_path, 3) == {
        "frame_0000": ["frame_0000.png"],
        "frame_0001": ["frame_0001.png"],
        "frame_0002": ["frame_0002.png"],
        "single": ["single_0000.png"],
    }
    assert found(tmp_path / "frame_0001.png", 3) == {"frame_0001": ["frame_0001.png"]}
    assert found(tmp_path / "single_0000.png", 3) == {"single": ["single_0000.png"]}


def test_grey_pictures_are_channels_of_a_case(tmp_path: Path) -> None:
    for name in ("x_0000", "x_0001", "x_0002"):
        Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / f"{name}.png")
    assert found(tmp_path, 3) == {"x": ["x_0000.png", "x_0001.png", "x_0002.png"]}
