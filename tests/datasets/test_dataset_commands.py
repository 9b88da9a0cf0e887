from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import fire
import numpy as np
import pytest
from PIL import Image

from monai_ext.datasets.dataset_commands import DatasetCommands
from monai_ext.errors import InputError

Maker = Callable[..., Path]


def typed(*words: object) -> None:
    fire.Fire(DatasetCommands, command=[str(word) for word in words], name="dataset")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, height in (("a", 6), ("b", 6), ("c", 9)):
        for part in ("images", "masks"):
            (tmp_path / "set" / part).mkdir(parents=True, exist_ok=True)
            pixels = rng.choice([0, 255], (height, 8)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / part / f"{name}.png")
    return tmp_path / "set"


def test_check_tells_what_a_dataset_holds(msd_folder: Maker, write_nifti: Maker, capsys: pytest.CaptureFixture) -> None:
    folder = msd_folder()
    write_nifti("set/labelsTr/b.nii.gz", np.ones((6, 5, 4), np.uint8))
    write_nifti("set/imagesTs/t.nii.gz", np.ones((6, 5, 8), np.float32))
    typed("check", folder)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{folder}: 3 volumes with label, 1 without; no problem found",
        "channels: MRI",
        "classes, and in how many labels they are:",
        "    0 background  2 of 3",
        "    1 front       3 of 3",
        "    2 back        2 of 3",
        "size (x, y, z): 6x5x4 to 6x5x8, median 6x5x4",
        "spacing (x, y, z) in mm: 1x1x1",
        "1 warning:",
        "  - t: t.nii.gz is constant (1 everywhere)",
        "next: python -m monai.bundle run training --config_file bundles/nnunet/configs/train.json "
        f"--dataset_dir {folder}",
    ]


def test_check_lists_every_problem(msd_folder: Maker, write_nifti: Maker) -> None:
    folder = msd_folder()
    write_nifti("set/labelsTr/b.nii.gz", np.full((6, 5, 4), 7, np.uint8))
    (folder / "imagesTr/a.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match="2 problems"):
        typed("check", folder)


def test_check_names_the_conversion_that_is_needed(pictures: Path) -> None:
    with pytest.raises(InputError, match=r"layout 'folders'. Cure: python -m monai_ext dataset convert"):
        typed("check", pictures)


def test_convert_detects_the_layout_and_tells_the_next_command(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    typed("convert", pictures, tmp_path / "new", "--labels", "background,nucleus")
    out = capsys.readouterr().out
    assert f"converted {pictures} (layout folders) to {tmp_path / 'new'}" in out
    assert "  value 255 -> 1 nucleus" in out
    assert "sizes differ: 8x6 (2), 8x9 (1)" in out
    assert out.rstrip().endswith(f"--dataset_dir {tmp_path / 'new'} --spatial_dims 2 --mixed_sizes True")
    assert json.loads((tmp_path / "new/dataset.json").read_text())["labels"]["1"] == "nucleus"
    typed("check", tmp_path / "new")
    assert "3 images with label, 0 without" in capsys.readouterr().out


def test_convert_of_bids_proposes_groups(tmp_path: Path, write_nifti: Maker, capsys: pytest.CaptureFixture) -> None:
    for name in ("sub-1", "sub-2"):
        write_nifti(f"bids/{name}/anat/{name}_T1w.nii.gz", np.random.default_rng(0).normal(size=(6, 5, 4)))
        write_nifti(f"bids/derivatives/x/{name}/anat/{name}_dseg.nii.gz", np.eye(6, 5)[..., None].repeat(4, 2))
    typed("convert", tmp_path / "bids", tmp_path / "new", "--suffixes", "T1w", "--labels", "background,x")
    assert capsys.readouterr().out.rstrip().endswith("--group_by subject")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labls", "a,b"], r"--labls: unknown option \(nearest: --labels\)"),
        (["--layout", "dicom"], "--layout dicom: unknown. Cure: choose one of nnunet, bids, folders"),
        (["--suffixes", "T1w"], "--suffixes: not for the layout folders"),
        (["--layout", "bids", "--above", "0"], "--above: not for the layout bids"),
        (["--labels", "a,b,c"], "3 names are given"),
        (["--above", "none"], "--above none: must be a whole number"),
    ],
)
def test_options_that_do_not_fit(options: list[str], message: str, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        typed("convert", pictures, tmp_path / "new", *options)
    assert not (tmp_path / "new").exists()


def test_unknown_layouts(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no layout recognised"):
        typed("convert", tmp_path / "empty", tmp_path / "new")
    with pytest.raises(InputError, match="dataset folder does not exist"):
        typed("check", tmp_path / "nothing")
