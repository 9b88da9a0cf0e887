from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monai_ext.datasets import dataset_check
from monai_ext.datasets.dataset_check import check_dataset
from monai_ext.datasets.msd import read_msd
from monai_ext.errors import InputError

Maker = Callable[..., Path]
SHAPE = (6, 5, 4)


def test_correct_dataset_passes(msd_folder: Maker) -> None:
    assert check_dataset(read_msd(msd_folder())) == []


def problem(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        check_dataset(read_msd(folder))
    assert str(caught.value).startswith(f"dataset {folder}: ")
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "affine", "messages"),
    [
        ("imagesTr/b", np.full(SHAPE, np.nan, np.float32), None, ["120 of 120 voxels are NaN or infinite"]),
        ("imagesTr/b", np.ones((*SHAPE, 2), np.float32), None, ["file has 2 channels, dataset.json declares 1"]),
        ("imagesTr/b", np.ones((6, 5, 1), np.float32), None, ["is a single slice", "shape 6x5x1 against 6x5x4"]),
        ("labelsTr/b", np.ones((6, 5, 3), np.uint8), None, ["differs from its image in shape 6x5x4 against 6x5x3"]),
        ("labelsTr/b", np.ones(SHAPE, np.uint8), np.diag([1, 1, 2.0, 1]), ["differs from its image in spacing"]),
        ("labelsTr/b", np.ones(SHAPE, np.uint8), np.diag([-1, 1, 1.0, 1]), ["image in position or direction"]),
        ("labelsTr/b", np.full(SHAPE, 3, np.uint8), None, ["does not name: 3 (120 voxels)", "0 background, 1 front"]),
        ("labelsTr/b", np.full(SHAPE, 0.5, np.float32), None, ["must be integers, found 0.5 in 120 voxels"]),
        ("labelsTr/b", np.ones((*SHAPE, 2), np.uint8), None, ["must be 3D, but the file is 4D"]),
    ],
)
def test_bad_files_are_reported(
    name: str, array: np.ndarray, affine: np.ndarray | None, messages: list[str], msd_folder: Maker, write_nifti: Maker
) -> None:
    folder = msd_folder()
    write_nifti(f"set/{name}.nii.gz", array, affine)
    text = problem(folder)
    assert "- b: b.nii.gz: " in text
    for message in (*messages, "Cure: "):
        assert message in text


def test_fewer_channels_than_declared(msd_folder: Maker) -> None:
    assert "file has 1 channels, dataset.json declares 2" in problem(msd_folder(modality={"0": "T1", "1": "T2"}))


def test_volume_declared_as_2d(msd_folder: Maker) -> None:
    assert "is a volume of 4 slices, dataset.json declares 2D" in problem(msd_folder(tensorImageSize="2D"))


def test_all_problems_are_listed_by_case(msd_folder: Maker, write_nifti: Maker) -> None:
    folder = msd_folder()
    truncated = folder / "imagesTr/c.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:100])
    write_nifti("set/imagesTr/a.nii.gz", np.full(SHAPE, np.inf, np.float32))
    write_nifti("set/labelsTr/a.nii.gz", np.full(SHAPE, 7, np.uint8))
    (folder / "imagesTs/t.nii.gz").write_bytes(b"")
    lines = problem(folder).split("\n")
    assert lines[0].endswith("4 problems")
    assert [line[4] for line in lines[1:]] == ["a", "a", "c", "t"]
    assert "cannot be read, the file is damaged or incomplete" in lines[3]


def test_zero_spacing_is_reported(msd_folder: Maker, write_nifti: Maker) -> None:
    folder = msd_folder()
    path = write_nifti("set/imagesTr/b.nii", np.ones(SHAPE, np.float32))
    content = bytearray(path.read_bytes())
    content[88:92] = np.float32(0).tobytes()  # pixdim[3]
    (folder / "imagesTr/b.nii.gz").write_bytes(content)  # the reader looks at the content, not at the ending
    assert "b.nii.gz: spacing (pixdim) must be positive, found (1, 1, 0) mm" in problem(folder)


def test_warnings_do_not_stop(msd_folder: Maker, write_nifti: Maker) -> None:
    folder = msd_folder()
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    coarse = np.diag([1.0, 1.0, 5.0, 1.0])
    for part, array in (("images", np.ones(SHAPE, np.float32)), ("labels", np.zeros(SHAPE, np.uint8))):
        write_nifti(f"set/{part}Tr/b.nii.gz", array, flipped)
        write_nifti(f"set/{part}Tr/c.nii.gz", np.arange(120).reshape(SHAPE).astype(array.dtype) % 2, coarse)
    warnings = check_dataset(read_msd(folder))
    assert warnings == [
        "b: b.nii.gz is constant (1 everywhere)",
        "b: b.nii.gz is all background",
        "mixed orientations (RAS 3, LAS 1): every case is reoriented to RAS while reading",
        "c: spacing 1x1x5 mm (x, y, z) is over 4 times off the median 1x1x1",
    ]


def test_several_processes_say_the_same(msd_folder: Maker, write_nifti: Maker) -> None:
    folder = msd_folder()
    write_nifti("set/labelsTr/a.nii.gz", np.full(SHAPE, 7, np.uint8))
    write_nifti("set/imagesTr/b.nii.gz", np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(InputError) as caught:
        check_dataset(read_msd(folder), num_workers=2, progress=True)
    assert str(caught.value) == problem(folder)


def test_verdict_is_kept_until_something_changes(
    msd_folder: Maker, write_nifti: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = msd_folder(), tmp_path / "cache/check.json"
    write_nifti("set/imagesTr/b.nii.gz", np.ones(SHAPE, np.float32))
    opened = []
    original = dataset_check.read_image
    monkeypatch.setattr(dataset_check, "read_image", lambda paths: opened.append(paths) or original(paths))

    def files_opened() -> int:
        opened.clear()
        assert check_dataset(read_msd(folder), cache_file=cache) == ["b: b.nii.gz is constant (1 everywhere)"]
        return len(opened)

    assert [files_opened(), files_opened()] == [4, 0]
    os.utime(folder / "labelsTr/a.nii.gz", ns=(1, 1))
    assert [files_opened(), files_opened()] == [4, 0]
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    (folder / "dataset.json").write_text(json.dumps(description | {"release": "2"}), encoding="utf-8")
    assert [files_opened(), files_opened()] == [4, 0]
    cache.write_text("damaged", encoding="utf-8")
    assert [files_opened(), files_opened()] == [4, 0]


def test_failed_check_is_not_kept(msd_folder: Maker, write_nifti: Maker, tmp_path: Path) -> None:
    folder, cache = msd_folder(), tmp_path / "check.json"
    write_nifti("set/labelsTr/a.nii.gz", np.full(SHAPE, 7, np.uint8))
    with pytest.raises(InputError):
        check_dataset(read_msd(folder), cache_file=cache)
    assert not cache.exists()


@pytest.mark.real_data
def test_hippocampus_passes(data_folder: Path) -> None:
    assert check_dataset(read_msd(data_folder / "Task04_Hippocampus")) == []
