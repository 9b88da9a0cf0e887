from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.datasets import case_check
from monai_ext.datasets.dataset_check import check_dataset, inspect_dataset
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
    original = case_check.read_image
    monkeypatch.setattr(case_check, "read_image", lambda paths: opened.append(paths) or original(paths))

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


def picture_set(tmp_path: Path, sizes: dict[str, tuple[int, ...]], channels: int = 1) -> Path:
    """2D dataset of PNG files; sizes are rows, columns and perhaps 3 for colours."""
    rng = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / "pictures" / part).mkdir(parents=True)
    for name, size in sizes.items():
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(tmp_path / f"pictures/imagesTr/{name}.png")
        label = rng.integers(0, 2, size[:2], dtype=np.uint8)
        Image.fromarray(label).save(tmp_path / f"pictures/labelsTr/{name}.png")
    description = {
        "modality": {"0": "grey"} if channels == 1 else {"0": "R", "1": "G", "2": "B"},
        "labels": {"0": "background", "1": "cell"},
        "training": [{"image": f"imagesTr/{name}.png", "label": f"labelsTr/{name}.png"} for name in sizes],
    }
    (tmp_path / "pictures/dataset.json").write_text(json.dumps(description))
    return tmp_path / "pictures"


def test_pictures_of_one_size_pass(tmp_path: Path) -> None:
    dataset = read_msd(picture_set(tmp_path, {"a": (6, 8, 3), "b": (6, 8, 3)}, channels=3))
    assert dataset.spatial_dims == 2  # PNG files have no third dimension, so it need not be said
    assert check_dataset(dataset, images_2d=True) == []


@pytest.mark.parametrize("images_2d", [True, False])  # a dataset of 2D images is one whether it is asked for or not
def test_pictures_of_mixed_sizes_are_grouped(images_2d: bool, tmp_path: Path) -> None:
    sizes: dict[str, tuple[int, ...]] = {f"n{i}": (6, 8) for i in range(8)}
    sizes |= {f"tall{i}": (9, 8) for i in range(7)} | {"wide": (6, 11)}
    dataset = read_msd(picture_set(tmp_path, sizes))
    with pytest.raises(InputError) as caught:
        check_dataset(dataset, images_2d=images_2d)
    text = str(caught.value)
    assert "sizes (x, y) differ, the most common is 8x6 (8 cases): others are 8x9: " in text
    assert "8x9: tall0, tall1, tall2, tall3, tall4 and 2 more; 11x6: wide. Cure: resize or pad them, or" in text
    assert "--mixed_sizes True (each image is then cut and padded to the patch by itself)" in text
    assert check_dataset(dataset, images_2d=images_2d, mixed_sizes=True) == []


def test_colour_pictures_declared_grey_and_the_reverse(tmp_path: Path) -> None:
    text = problem(picture_set(tmp_path / "x", {"a": (6, 8, 3), "b": (6, 8)}))
    assert "a.png: is a colour picture with channels R, G, B, dataset.json declares 1" in text
    assert '{"0": "R", "1": "G", "2": "B"}' in text
    assert "the most common is 8x6 with 1 channels" in text
    text = problem(picture_set(tmp_path / "y", {"a": (6, 8, 3), "b": (6, 8)}, channels=3))
    assert "b.png: is a grey picture with 1 channel, dataset.json declares 3" in text


def test_alpha_channels_are_mentioned(tmp_path: Path) -> None:
    folder = picture_set(tmp_path, {"a": (6, 8, 3), "b": (6, 8, 3)}, channels=3)
    picture = Image.open(folder / "imagesTr/a.png")
    picture.putalpha(255)
    picture.save(folder / "imagesTr/a.png")
    assert check_dataset(read_msd(folder)) == ["a: a.png has an alpha channel, which is left away"]


def test_volumes_are_no_2d_images(msd_folder: Maker) -> None:
    with pytest.raises(InputError, match=r"is a volume of 4 slices, the training takes 2D images"):
        check_dataset(read_msd(msd_folder()), images_2d=True)


def test_a_kept_verdict_counts_for_its_options_only(tmp_path: Path) -> None:
    folder = picture_set(tmp_path, {"a": (6, 8), "b": (9, 8)})
    cache = tmp_path / "check.json"
    assert check_dataset(read_msd(folder), cache_file=cache, images_2d=True, mixed_sizes=True) == []
    assert cache.exists()
    for images_2d in (True, False):
        with pytest.raises(InputError, match="sizes"):
            check_dataset(read_msd(folder), cache_file=cache, images_2d=images_2d)


def test_a_kept_verdict_on_volumes_is_none_on_images(msd_folder: Maker, tmp_path: Path) -> None:
    dataset, cache = read_msd(msd_folder()), tmp_path / "check.json"
    check_dataset(dataset, cache_file=cache)
    with pytest.raises(InputError, match="2D images"):
        check_dataset(dataset, cache_file=cache, images_2d=True, mixed_sizes=True)


def test_what_was_found_in_each_case(msd_folder: Maker) -> None:
    reports, warnings = inspect_dataset(read_msd(msd_folder()))
    assert warnings == []
    assert [report.name for report in reports] == ["a", "b", "c", "t"]
    assert [report.values for report in reports] == [(0, 1, 2)] * 3 + [()]
    assert {(report.shape, report.channels, report.spacing) for report in reports} == {((4, 5, 6), 1, (1, 1, 1))}


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".bmp"])
def test_jpeg_and_bmp_images_with_png_masks(ending: str, tmp_path: Path) -> None:
    folder = picture_set(tmp_path, {"a": (16, 8, 3), "b": (16, 8, 3)}, channels=3)
    for name in "ab":
        Image.open(folder / f"imagesTr/{name}.png").save(folder / f"imagesTr/{name}{ending}", dpi=(72, 72))
    text = (folder / "dataset.json").read_text().replace('.png", "label', f'{ending}", "label')
    (folder / "dataset.json").write_text(text)
    dataset = read_msd(folder)
    assert dataset.training[0].images[0].suffix == ending
    assert dataset.spatial_dims == 2
    assert check_dataset(dataset, images_2d=True) == []
