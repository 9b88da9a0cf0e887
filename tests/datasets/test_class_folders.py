"""Folders of classes, with and without parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_ext.datasets.class_folders import read_class_folders
from monai_ext.errors import InputError
from picture_sets import write_folders, write_picture


def test_parts_classes_and_folders_inside(tmp_path: Path) -> None:
    write_folders(tmp_path, {"train/dog": 2, "train/cat": 1, "val/cat": 1, "val/dog": 1, "train/cat/patient 7": 2})
    write_picture(tmp_path / "train" / "cat" / "._0.png")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    dataset = read_class_folders(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert [(case.name, case.labels, case.split) for case in dataset.cases] == [
        ("train/cat/0.png", (0,), "train"),
        ("train/cat/patient 7/0.png", (0,), "train"),
        ("train/cat/patient 7/1.png", (0,), "train"),
        ("train/dog/0.png", (1,), "train"),
        ("train/dog/1.png", (1,), "train"),
        ("val/cat/0.png", (0,), "val"),
        ("val/dog/0.png", (1,), "val"),
    ]
    assert dataset.splits == ("train", "val")
    assert dataset.counts() == [4, 3]
    assert dataset.counts("val") == [1, 1]
    assert [case.name for case in dataset.part("val")] == ["val/cat/0.png", "val/dog/0.png"]
    assert dataset.case("val/dog/0.png").path == tmp_path / "val" / "dog" / "0.png"
    assert dataset.name == tmp_path.name
    assert not dataset.multi_label
    with pytest.raises(InputError, match=r"has no image 'dog/0.png'. Cure: .* such as train/cat/0.png"):
        dataset.case("dog/0.png")


def test_folders_without_parts(tmp_path: Path) -> None:
    dataset = read_class_folders(write_folders(tmp_path, {"10": 1, "9": 1, "0": 2}))
    assert dataset.classes == ("0", "9", "10"), "numbers are sorted by value"
    assert dataset.splits == ("",)
    assert dataset.counts() == [2, 1, 1]


@pytest.mark.parametrize("names", [("training", "validation", "testing"), ("Train", "valid", "TEST")])
def test_other_names_of_parts(tmp_path: Path, names: tuple[str, ...]) -> None:
    dataset = read_class_folders(write_folders(tmp_path, {f"{name}/{c}": 1 for name in names for c in "ab"}))
    assert [case.split for case in dataset.cases].count("val") == 2
    assert dataset.splits == ("train", "val", "test")


def test_classes_may_be_called_like_parts(tmp_path: Path) -> None:
    dataset = read_class_folders(write_folders(tmp_path, {"train": 2, "plane": 1, "test": 1}))
    assert dataset.classes == ("plane", "test", "train")
    assert dataset.splits == ("",)


def test_test_part_without_labels(tmp_path: Path) -> None:
    dataset = read_class_folders(write_folders(tmp_path, {"train/a": 1, "train/b": 1, "test": 2}))
    assert [case.labels for case in dataset.part("test")] == [(), ()]
    assert dataset.counts("test") == [0, 0]
    assert not dataset.notes


def test_what_is_not_used_is_noted(tmp_path: Path) -> None:
    write_folders(tmp_path, {"train/a": 1, "train/b": 1, "masks/a": 1, "empty": 0})
    write_picture(tmp_path / "train" / "stray.png")
    notes = read_class_folders(tmp_path).notes
    assert notes == (
        "folders beside train are not used: masks",
        "1 images beside the class folders of train are not used: stray.png",
    )


def test_classes_of_a_model_keep_their_order(tmp_path: Path) -> None:
    write_folders(tmp_path, {"val/b": 1, "val/a": 1})
    dataset = read_class_folders(tmp_path, classes=("b", "c", "a"))
    assert dataset.classes == ("b", "c", "a")
    assert [case.labels for case in dataset.cases] == [(2,), (0,)]
    with pytest.raises(InputError, match=r"1 folders: are no classes of the model: a. Cure: known are b, c"):
        read_class_folders(tmp_path, classes=("b", "c"))


def test_folders_that_are_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        read_class_folders(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds neither class folders nor images"):
        read_class_folders(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="the class folders hold no image"):
        read_class_folders(tmp_path)
    flat = tmp_path / "flat"
    write_picture(flat / "0.png")
    with pytest.raises(InputError, match="holds images but no class folders"):
        read_class_folders(flat)
    twice = write_folders(tmp_path / "twice", {"val/a": 1, "valid/a": 1, "train/a": 1})
    with pytest.raises(InputError, match="valid: is the part 'val' as is val"):
        read_class_folders(twice)


def test_files_of_other_kinds_are_counted(tmp_path: Path) -> None:
    folder = write_folders(tmp_path, {"cat": 2, "dog/deep": 1})
    for name in ("cat/a.webp", "dog/deep/b.svg", "cat/.hidden"):
        (folder / name).write_bytes(b"x")
    dataset = read_class_folders(folder)
    assert len(dataset.cases) == 3
    assert dataset.notes == ("2 files in class folders are of kinds that are not read: a.webp, b.svg",)
