"""Tables of files and labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_ext.datasets.class_open import open_classification
from monai_ext.datasets.class_table import is_class_table, read_class_table
from monai_ext.errors import InputError
from picture_sets import write_picture, write_table

FILES = ("x/a.png", "x/b.png", "c.png")


def test_labels_parts_and_further_columns(tmp_path: Path) -> None:
    text = "file,label,split,patient,age\nx/b.png,dog,val,P2,9\n./x/a.png,cat,Train,P1,8\n\nc.png,,test,,7\n"
    dataset = read_class_table(write_table(tmp_path / "labels.csv", text, FILES))
    assert dataset.classes == ("cat", "dog")
    assert [(case.name, case.labels, case.split, case.group) for case in dataset.cases] == [
        ("c.png", (), "test", ""),
        ("x/a.png", (0,), "train", "P1"),
        ("x/b.png", (1,), "val", "P2"),
    ]
    assert not dataset.multi_label
    assert dataset.notes == ("further columns, not used but for groups: patient, age",)
    assert all(case.path.is_file() for case in dataset.cases)


@pytest.mark.parametrize("separator", [";", "|", " ; "])
def test_several_labels_make_it_multi_label(tmp_path: Path, separator: str) -> None:
    text = f"image,labels\nx/a.png,b{separator}a{separator}b\nx/b.png,\nc.png,c\n"
    dataset = read_class_table(write_table(tmp_path / "t.csv", text, FILES))
    assert dataset.multi_label
    assert [case.labels for case in dataset.cases] == [(2,), (0, 1), ()]
    with pytest.raises(InputError, match="line 2: has 3 labels, multi_label is off"):
        read_class_table(tmp_path / "t.csv", multi_label=False)


def test_semicolons_and_byte_order_mark(tmp_path: Path) -> None:
    text = "\ufefffile;label\nx/a.png;a\nx\\b.png;b\n"  # as a spreadsheet saves it where the comma is decimal
    dataset = read_class_table(write_table(tmp_path / "t.csv", text, FILES))
    assert [case.name for case in dataset.cases] == ["x/a.png", "x/b.png"]
    assert dataset.classes == ("a", "b")


def test_files_elsewhere_and_without_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picture(tmp_path / "pictures" / "scan_1.png")
    outside = write_picture(tmp_path / "other.png")
    table = write_table(tmp_path / "tables" / "t.csv", f"file,label\nscan_1,a\n{outside},b\n")
    with pytest.raises(InputError, match=r"1 of 2 files \(.*other.png\): each leaves the dataset folder .*pictures"):
        read_class_table(table, image_dir=tmp_path / "pictures")
    monkeypatch.setenv("MONAI_EXT_PATHS_OUTSIDE", "1")
    dataset = read_class_table(table, image_dir=tmp_path / "pictures")
    assert [case.name for case in dataset.cases] == sorted([outside.as_posix(), "scan_1.png"])
    assert dataset.case("scan_1.png").path == tmp_path / "pictures" / "scan_1.png"
    with pytest.raises(InputError, match=r"1 of 2 files: do not exist in .*tables: scan_1. Cure: .*--image_dir"):
        read_class_table(table)


def test_numbers_are_indices_where_names_are_known(tmp_path: Path) -> None:
    table = write_table(tmp_path / "labels.csv", "file,label\nx/a.png,1\nx/b.png,benign\nc.png,0\n", FILES)
    (tmp_path / "classes.txt").write_text("benign\nmalign\n\n")
    dataset = read_class_table(table)
    assert dataset.classes == ("benign", "malign")
    assert {case.name: case.labels for case in dataset.cases} == {"x/a.png": (1,), "x/b.png": (0,), "c.png": (0,)}
    # without names the numbers are names, in the order of their value
    table.write_text("file,label\nx/a.png,10\nx/b.png,9\n")
    (tmp_path / "classes.txt").unlink()
    assert read_class_table(table).classes == ("9", "10")


def test_labels_out_of_range_or_unknown(tmp_path: Path) -> None:
    table = write_table(tmp_path / "labels.csv", "file,label\nx/a.png,2\nx/b.png,-1\nc.png,cyst\n", FILES)
    with pytest.raises(InputError) as caught:
        read_class_table(table, classes=("benign", "malign"))
    text = str(caught.value)
    assert "label 2: is out of range in 1 rows. Cure: 0 to 1, or one of benign, malign" in text
    assert "label -1: is out of range in 1 rows" in text
    assert "label 'cyst': is no class, in 1 rows. Cure: one of benign, malign" in text
    table.write_text("file,label\nx/a.png,2\nx/b.png,-1\n")
    with pytest.raises(InputError, match=r"labels: are out of range: -1. Cure: numbers from 0"):
        read_class_table(table)
    (tmp_path / "classes.txt").write_text("a\na\n")
    with pytest.raises(InputError, match=r"classes.txt: holds names twice: a"):
        read_class_table(table)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("name,label", "has no column 'file', columns are name, label"),
        ("file,diagnosis", "has no column 'label', columns are file, diagnosis"),
        ("file,label,splits", "has an unknown column 'splits'. Cure: call it 'split'"),
        ("file,lable", "has an unknown column 'lable'. Cure: call it 'label'"),
        ("file,label,label", "has columns twice: 'label'"),
    ],
)
def test_columns_that_are_not_known(tmp_path: Path, header: str, message: str) -> None:
    row = ",".join(["x/a.png", *["train"] * header.count(",")])
    with pytest.raises(InputError) as caught:
        read_class_table(write_table(tmp_path / "t.csv", f"{header}\n{row}\n", FILES))
    assert message in str(caught.value)


def test_every_problem_of_the_rows_is_listed(tmp_path: Path) -> None:
    text = (
        "file,label,split\nx/a.png,a,train\nx/a.png,b,val\nx/b.png,,train\nmissing.png,a,train\n,a,val\n"
        "c.png,b,holdout\nnotes.txt,a,train\n"
    )
    table = write_table(tmp_path / "t.csv", text, FILES)
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError) as caught:
        read_class_table(table)
    text = str(caught.value)
    assert "6 problems" in text
    for expected in (
        "1 files: are listed more than once: x/a.png (lines 2, 3)",
        "1 rows: have no label: line 4",
        "1 of 7 files: do not exist in",
        "line 6: names no file",
        "column 'split': holds other values in 1 rows: holdout. Cure: train, val or test",
        "1 files: are no images by their names: notes.txt",
    ):
        assert expected in text, text


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    with pytest.raises(InputError, match="table does not exist"):
        read_class_table(table)
    for content in ("", "file,label\n", "\n\n"):
        table.write_text(content)
        with pytest.raises(InputError, match="has no rows"):
            read_class_table(table)
    table.write_text("file,label\na.png,x,y\nb.png\n")
    with pytest.raises(InputError, match="2 rows: have not 2 cells like line 1: line 2, line 3"):
        read_class_table(table)
    table.write_bytes(b"file,label\n\xff\xfe,a\n")
    with pytest.raises(InputError, match="not a CSV table in UTF-8"):
        read_class_table(table)


def test_open_chooses_between_folders_and_tables(tmp_path: Path) -> None:
    write_table(tmp_path / "labels.csv", "file,label\nx/a.png,a\nx/b.png,b\n", FILES)
    write_picture(tmp_path / "y" / "0.png")
    assert is_class_table(tmp_path)
    assert open_classification(tmp_path).table == tmp_path / "labels.csv"
    assert open_classification(str(tmp_path / "labels.csv")).classes == ("a", "b")
    (tmp_path / "labels.csv").unlink()
    assert not is_class_table(tmp_path)
    folders = open_classification(tmp_path)
    assert (folders.classes, folders.table, folders.multi_label) == (("x", "y"), None, False)
    assert open_classification(tmp_path, multi_label=True).multi_label
    with pytest.raises(InputError, match="dataset does not exist"):
        open_classification(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is neither a folder nor a CSV table"):
        open_classification(tmp_path / "c.png")
    with pytest.raises(InputError, match="--multi_label 'maybe': is not known"):
        open_classification(tmp_path, multi_label="maybe")
