"""Data files name only what lies in their folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from coco_sets import content, write_coco
from monai_ext.datasets.class_table import read_class_table
from monai_ext.datasets.coco_dataset import read_coco
from monai_ext.datasets.confined_path import confined_path, path_fault
from monai_ext.datasets.msd import read_msd
from monai_ext.errors import InputError
from picture_sets import write_picture, write_table

ALLOW = "MONAI_EXT_PATHS_OUTSIDE"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`set` with a file, a link within and links out of it; `secret.png` beside it."""
    inside = tmp_path / "set" / "images"
    inside.mkdir(parents=True)
    write_picture(tmp_path / "secret.png")
    write_picture(inside / "a.png")
    (inside / "same.png").symlink_to(inside / "a.png")
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    (inside / "up").symlink_to(tmp_path)
    (inside / "loop.png").symlink_to(inside / "loop.png")
    return tmp_path / "set"


INSIDE = ["images/a.png", "./images/a.png", "images/../images/a.png", "images/same.png", "missing.png"]
OUTSIDE = ["../secret.png", "images/../../secret.png", "images/link.png", "images/up/secret.png", "/etc/passwd"]


@pytest.mark.parametrize("named", INSIDE)
def test_what_lies_inside_is_taken(named: str, folder: Path) -> None:
    assert path_fault(folder, named) == ""
    assert confined_path(folder, named, "list.json") == folder / named


@pytest.mark.parametrize("named", OUTSIDE)
def test_what_leaves_is_refused_unless_allowed(named: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=rf"list\.json: names .*, which leaves the dataset folder.*{ALLOW}=1"):
        confined_path(folder, named, "list.json")
    monkeypatch.setenv(ALLOW, "1")
    assert confined_path(folder, named, "list.json") == folder / named
    monkeypatch.setenv(ALLOW, "yes")
    with pytest.raises(InputError, match=f"{ALLOW}=yes: is neither 0 nor 1"):
        confined_path(folder, named, "list.json")


@pytest.mark.parametrize("named", ["", " ", "a\0b", "a\nb", "\ud800.png", "x" * 5000, "y/" * 5000])
def test_what_is_no_path_is_refused(named: str, folder: Path) -> None:
    with pytest.raises(InputError, match="which is no path") as caught:
        confined_path(folder, named, "list.json")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_folder_that_is_a_link_is_where_it_leads(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(folder)
    assert path_fault(tmp_path / "other", "images/a.png") == ""
    assert path_fault(tmp_path / "other", "../secret.png")
    assert path_fault(folder / "images", "../images/a.png", folder) == ""


@pytest.mark.parametrize("named", ["../secret.png", "up/secret.png", "link.png", "/SECRET"])
@pytest.mark.parametrize("kind", ["msd", "coco", "table"])
def test_readers_refuse_what_leaves(
    kind: str, named: str, folder: Path, msd_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = named.replace("/SECRET", str(folder.parent / "secret.png"))
    images = folder / "images"
    if kind == "msd":
        # its own folder, `set`, is that of the pictures as well
        listed = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in "ab"]
        within = named if named.startswith("/") else f"images/{named}".replace("images/../", "../")
        root = msd_folder(training=[*listed, {"image": within, "label": within}])
        read: Callable[[], object] = lambda: read_msd(root)  # noqa: E731
    elif kind == "coco":
        whole = content()
        write_coco(folder, whole)
        train = folder / "images" / "train"
        (train / "link.png").symlink_to(folder.parent / "secret.png")
        (train / "up").symlink_to(folder.parent)
        whole["images"][0]["file_name"] = named if named != "../secret.png" else "../../../secret.png"
        (folder / "annotations" / "instances_train.json").write_text(json.dumps(whole))
        read = lambda: read_coco(folder)  # noqa: E731
    else:
        table = write_table(images / "labels.csv", f"file,label\na.png,x\n{named},y\n")
        text = named if named != "../secret.png" else "../../secret.png"
        table.write_text(f"file,label\na.png,x\n{text},y\n")
        read = lambda: read_class_table(table)  # noqa: E731
    with pytest.raises(InputError, match="leaves the dataset folder"):
        read()
    monkeypatch.setenv(ALLOW, "1")
    assert "leaves" not in _message(read)  # of another size, not a volume: but no longer for its place


def _message(read: Callable[[], object]) -> str:
    """Why something is refused; empty if it is not."""
    try:
        read()
    except InputError as error:
        return str(error)
    return ""


def test_tables_are_confined_to_the_folder_of_images(folder: Path) -> None:
    table = write_table(folder / "tables" / "t.csv", "file,label\nimages/a.png,x\nimages/same.png,y\n")
    assert len(read_class_table(table, image_dir=folder).cases) == 2


def test_detached_voxels_stay_beside_their_header(folder: Path) -> None:
    from monai_ext.datasets.image_files import read_image

    (folder.parent / "secret.raw").write_bytes(bytes(24))
    (folder / "v.raw").write_bytes(bytes(range(24)))
    for name, header in {
        "v.nhdr": "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 3 4\nencoding: raw\ndata file: {}\n",
        "v.mhd": "ObjectType = Image\nNDims = 3\nDimSize = 2 3 4\nElementType = MET_UCHAR\nElementDataFile = {}\n",
    }.items():
        (folder / name).write_text(header.format("v.raw"))
        assert read_image([folder / name])[0].sum() == 276
        for outside in ("../secret.raw", str(folder.parent / "secret.raw"), "LIST\n../secret.raw\n"):
            (folder / name).write_text(header.format(outside))
            with pytest.raises(InputError, match="leaves the dataset folder"):
                read_image([folder / name])
