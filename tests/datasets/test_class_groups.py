"""Groups out of file names and tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_ext.datasets.class_folders import read_class_folders
from monai_ext.datasets.class_groups import case_groups, join_duplicates, leaking_images
from monai_ext.datasets.class_table import read_class_table
from monai_ext.errors import InputError
from picture_sets import write_folders, write_table

FILES = ("p1_a.png", "p1_b.png", "p2_a.png")


def test_groups_from_file_names_and_folders(tmp_path: Path) -> None:
    dataset = read_class_folders(write_folders(tmp_path, {"train/a": 2, "val/b": 1}))
    assert case_groups(dataset, r"name:^(\d+)\.png$") == {
        "train/a/0.png": "0",
        "train/a/1.png": "1",
        "val/b/0.png": "0",
    }
    # what the file name does not show is looked for in the whole path
    assert set(case_groups(dataset, r"name:/([ab])/").values()) == {"a", "b"}
    with pytest.raises(InputError, match=r"is not found in 1 of 3 names: train/a/1.png"):
        case_groups(dataset, r"name:(0)\.png")
    with pytest.raises(InputError, match="has no parentheses"):
        case_groups(dataset, r"name:\d+")
    with pytest.raises(InputError, match="is no regular expression"):
        case_groups(dataset, "name:(")


def test_groups_from_tables(tmp_path: Path) -> None:
    text = "file,label,site\np1_a.png,x,A\np1_b.png,x,B\np2_a.png,y,\n"
    dataset = read_class_table(write_table(tmp_path / "labels.csv", text, FILES))
    with pytest.raises(InputError, match=r"column 'site': 1 problem\n  - 1 of 3 images: have no value: p2_a.png"):
        case_groups(dataset, "site")
    with pytest.raises(InputError, match=r"has no column 'sites' .* Cure: choose one of file, label, site"):
        case_groups(dataset, "sites")
    assert case_groups(dataset) == {}
    # another table may name files without ending, and be given relative to the dataset
    (tmp_path / "people.csv").write_text("id;patient\np1_a;1\np1_b;1\np2_a;2\np9;3\n")
    expected = {"p1_a.png": "1", "p1_b.png": "1", "p2_a.png": "2"}
    assert case_groups(dataset, "people.csv:patient") == expected
    assert case_groups(dataset, f"{tmp_path / 'people.csv'}:patient") == expected
    (tmp_path / "people.csv").write_text("id;patient\np1_a;1\np1_a;2\np1_b;1\np2_a;2\n")
    with pytest.raises(InputError, match=r"p1_a.png: has several values: 1, 2"):
        case_groups(dataset, "people.csv:patient")


def test_groups_beside_folders(tmp_path: Path) -> None:
    dataset = read_class_folders(write_folders(tmp_path, {"a": 1, "b": 1}))
    with pytest.raises(InputError, match=r"column 'patient': no table in .* has it"):
        case_groups(dataset, "patient")
    (tmp_path / "cases.csv").write_text("file,patient\na/0.png,P1\nb/0.png,P2\n")
    assert case_groups(dataset, "patient") == {"a/0.png": "P1", "b/0.png": "P2"}
    (tmp_path / "more.csv").write_text("file,patient\n0.png,P1\n")
    with pytest.raises(InputError, match="several tables have it"):
        case_groups(dataset, "patient")


def test_groups_that_the_table_brings(tmp_path: Path) -> None:
    text = "file,label,patient\np1_a.png,x,A\np1_b.png,x,A\np2_a.png,y,\n"
    dataset = read_class_table(write_table(tmp_path / "labels.csv", text, FILES))
    assert case_groups(dataset) == {"p1_a.png": "A", "p1_b.png": "A", "p2_a.png": "p2_a.png"}


def test_leaks_and_duplicates() -> None:
    groups = {"a": "1", "b": "1", "c": "2", "d": "3", "e": "3"}
    assert leaking_images(["a", "c"], ["b", "d", "e", "unknown"], groups) == {"1": (1, 1)}
    assert leaking_images(["a", "b", "c"], ["d", "e"], groups) == {}
    joined = join_duplicates([*groups, "f", "g"], groups, [("b", "d"), ("f", "c", "x")])
    assert joined["a"] == joined["b"] == joined["d"] == joined["e"]
    assert joined["c"] == joined["f"]
    assert len({joined["a"], joined["c"], joined["g"]}) == 3
