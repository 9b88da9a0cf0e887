from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.datasets.conversion import write_dataset
from monai_ext.datasets.folds import read_groups
from monai_ext.datasets.image_files import read_image, read_label
from monai_ext.datasets.image_folder import is_image_folder, plan_image_folder
from monai_ext.errors import InputError

Maker = Callable[..., Path]
HEIGHT, WIDTH = 6, 8


def grey_picture(seed: int, height: int = HEIGHT) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, WIDTH), dtype=np.uint8)


def mask_of(seed: int, values: tuple[int, ...] = (0, 255), height: int = HEIGHT) -> np.ndarray:
    mask = np.random.default_rng(seed).choice(values, (height, WIDTH))
    mask.flat[: len(values)] = values
    return mask.astype(np.uint8 if max(values) < 256 else np.uint16)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Grey pictures `a`, `b`, `c` with masks of 0 and 255; `d` has no mask."""
    for seed, name in enumerate("abcd"):
        save(tmp_path / f"set/images/{name}.png", grey_picture(seed))
        if name != "d":
            save(tmp_path / f"set/masks/{name}.png", mask_of(seed))
    return tmp_path / "set"


def message_of(folder: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        plan_image_folder(folder, **options)  # type: ignore[arg-type]
    assert "Cure: " in str(caught.value)
    return str(caught.value)


def test_pictures_and_masks(pictures: Path, tmp_path: Path) -> None:
    assert is_image_folder(pictures)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in pictures.rglob("*.png")}
    plan = plan_image_folder(pictures, names=("background", "nucleus"))
    dataset, reports, warnings = write_dataset(plan, tmp_path / "new")
    assert warnings == []
    assert dataset.spatial_dims == 2
    assert dataset.channels == ("grey",)
    assert dataset.labels == {"background": 0, "nucleus": 1}
    assert [case.name for case in dataset.training] == ["a", "b", "c"]
    assert [case.name for case in dataset.test] == ["d"]
    image, geometry = read_image(dataset.training[1].images)
    assert dataset.training[1].label is not None
    label, label_geometry = read_label(dataset.training[1].label)
    assert geometry == label_geometry
    np.testing.assert_array_equal(geometry.to_file(image[0]).T, grey_picture(1))
    np.testing.assert_array_equal(geometry.to_file(label).T, mask_of(1) == 255)
    np.testing.assert_array_equal(np.asarray(Image.open(dataset.training[1].label)), mask_of(1) == 255)
    assert {report.shape for report in reports} == {(1, HEIGHT, WIDTH)}
    description = json.loads((tmp_path / "new/dataset.json").read_text())
    assert description["converted_from"] == {"layout": "folders", "label_values": {"0": 0, "255": 1}}
    assert plan.notes == (
        "1 images without mask become test cases: d",
        "value 0 -> 0 background",
        "value 255 -> 1 nucleus",
    )
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in pictures.rglob("*.png")} == before


def test_files_beside_each_other_in_folders_of_patients(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for seed, name in enumerate(("p1/x", "p1/y", "p2/x")):
        save(root / f"{name}.tif", np.repeat(grey_picture(seed)[..., None], 3, axis=2))
        save(root / f"{name}_mask.tif", mask_of(seed, (0, 1)))
    dataset, _, _ = write_dataset(plan_image_folder(root), tmp_path / "new")
    assert [case.name for case in dataset.training] == ["p1_x", "p1_y", "p2_x"]
    assert dataset.channels == ("R", "G", "B")
    assert read_groups(dataset, "folder") == {"p1_x": "p1", "p1_y": "p1", "p2_x": "p2"}
    label = dataset.training[0].label
    assert label is not None
    assert label.samefile(root / "p1/x_mask.tif")  # its values are classes already


def test_masks_with_marks_in_a_folder_of_their_own(pictures: Path) -> None:
    (pictures / "masks/a.png").rename(pictures / "masks/a_mask.png")
    (pictures / "masks").rename(pictures / "drawn")
    assert "folders are drawn, images. Cure: give --masks NAME" in message_of(pictures)
    plan = plan_image_folder(pictures, masks="drawn")
    assert plan.cases[0].label == pictures / "drawn/a_mask.png"


def test_colour_masks_with_equal_channels_are_written_as_grey(pictures: Path, tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        save(pictures / f"masks/{name}.png", np.repeat(mask_of(seed, (0, 1))[..., None], 3, axis=2))
    dataset, _, _ = write_dataset(plan_image_folder(pictures), tmp_path / "new")
    label = dataset.training[2].label
    assert label is not None
    np.testing.assert_array_equal(np.asarray(Image.open(label)), mask_of(2, (0, 1)))


def test_all_problems_are_listed_at_once(pictures: Path) -> None:
    save(pictures / "masks/b.png", np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    (pictures / "masks/c.png").unlink()
    save(pictures / "masks/c.jpg", mask_of(0))
    save(pictures / "masks/orphan.png", mask_of(0))
    save(pictures / "images/a.tif", grey_picture(0))
    save(pictures / "images/e.png", np.repeat(grey_picture(0)[..., None], 3, axis=2))
    text = message_of(pictures, names=("background", "x", "y"))
    assert "b.png: is a mask in colours" in text
    assert "c.jpg: label maps cannot be JPEG" in text
    assert "1 have no image: orphan" in text
    assert "2 files are named a: a.png, a.tif" in text
    assert "3 names are given (background, x, y), masks hold 2 values: 0, 255" in text
    assert "grey and colour are mixed" in text


def test_a_mask_of_another_size_is_a_problem_and_nothing_is_written(pictures: Path, tmp_path: Path) -> None:
    save(pictures / "masks/b.png", mask_of(1, height=HEIGHT - 1))
    with pytest.raises(InputError, match=r"b: b.png: differs from its image in shape 8x6x1 against 8x5x1") as caught:
        write_dataset(plan_image_folder(pictures), tmp_path / "new")
    assert f"dataset {tmp_path / 'new'} (not written): 1 problem" in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"set"}


@pytest.mark.parametrize(("colour", "channels"), [("rgb", ("R", "G", "B")), ("grey", ("grey",))])
def test_pictures_of_one_kind(colour: str, channels: tuple[str, ...], pictures: Path, tmp_path: Path) -> None:
    colours = np.random.default_rng(9).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    save(pictures / "images/b.png", colours)
    dataset, _, _ = write_dataset(plan_image_folder(pictures, colour=colour), tmp_path / "new")
    assert dataset.channels == channels
    expected = {
        "rgb": [np.repeat(grey_picture(0)[..., None], 3, axis=2), colours],
        "grey": [grey_picture(0), np.asarray(Image.fromarray(colours).convert("L"))],
    }[colour]
    for case, pixels in zip(dataset.training, expected, strict=False):
        written = np.asarray(Image.open(case.images[0])).astype(int)
        assert np.abs(written - pixels).max() <= 1  # Pillow rounds the sum of the weights otherwise
    assert "unknown. Cure: choose rgb or grey" in message_of(pictures, colour="green")


def test_what_png_cannot_hold_becomes_nifti(tmp_path: Path) -> None:
    """Pixel sizes and fractions are kept when pictures are turned into one kind."""
    colours = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    fractions = np.random.default_rng(0).random((HEIGHT, WIDTH)).astype(np.float32)
    save(tmp_path / "set/images/a.tif", colours, dpi=(254, 254))
    save(tmp_path / "set/images/b.tif", fractions, dpi=(254, 254))
    for seed, name in enumerate("ab"):
        save(tmp_path / f"set/masks/{name}.png", mask_of(seed))
    dataset, reports, _ = write_dataset(plan_image_folder(tmp_path / "set", colour="rgb"), tmp_path / "new")
    assert dataset.training[0].images[0].samefile(tmp_path / "set/images/a.tif")
    image, geometry = read_image(dataset.training[1].images)
    for channel in image:
        np.testing.assert_array_equal(geometry.to_file(channel).squeeze().T, fractions)
    np.testing.assert_allclose([report.spacing for report in reports], [(1, 0.1, 0.1)] * 2, rtol=1e-6)


def test_objects_numbered_one_by_one(pictures: Path, tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        save(
            pictures / f"masks/{name}.png",
            np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16) * (seed + 1),
        )
    assert "--above 0" in message_of(pictures)
    plan = plan_image_folder(pictures, above=0, names=("background", "cell"))
    dataset, _, _ = write_dataset(plan, tmp_path / "new")
    label = dataset.training[0].label
    assert label is not None
    assert int(read_label(label)[0].sum()) == HEIGHT * WIDTH - 1


def test_jpeg_images_are_kept_or_written_without_further_loss(pictures: Path, tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        (pictures / f"images/{name}.png").unlink()
        save(pictures / f"images/{name}.jpg", grey_picture(seed), dpi=(72, 72))
    dataset, _, _ = write_dataset(plan_image_folder(pictures), tmp_path / "new")
    written = np.asarray(Image.open(dataset.training[0].images[0]))
    np.testing.assert_array_equal(written, np.asarray(Image.open(pictures / "images/a.jpg")))


def test_a_resolution_in_the_image_only_goes_to_the_label(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        save(tmp_path / f"set/images/{name}.tif", grey_picture(seed), dpi=(254, 254))
        save(tmp_path / f"set/masks/{name}.png", mask_of(seed))
    dataset, reports, _ = write_dataset(plan_image_folder(tmp_path / "set"), tmp_path / "new")
    np.testing.assert_allclose(reports[0].spacing, (1, 0.1, 0.1), rtol=1e-6)
    label = dataset.training[0].label
    assert label is not None
    labels, geometry = read_label(label)
    np.testing.assert_array_equal(geometry.to_file(labels).T, mask_of(0) == 255)


def test_volumes(tmp_path: Path, write_nifti: Maker) -> None:
    rng = np.random.default_rng(0)
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    for name in "ab":
        write_nifti(f"set/images/{name}.nii.gz", rng.normal(size=(6, 5, 4)).astype(np.float32), affine)
        write_nifti(f"set/labels/{name}.nii.gz", rng.choice([0, 4, 9], (6, 5, 4)).astype(np.uint8), affine)
    plan = plan_image_folder(tmp_path / "set", channels=("CT",))
    dataset, reports, _ = write_dataset(plan, tmp_path / "new")
    assert dataset.spatial_dims == 3
    assert dataset.channels == ("CT",)
    assert dataset.labels == {"background": 0, "class_1": 1, "class_2": 2}
    assert reports[0].values == (0, 1, 2)
    assert "names 2 channels, the images have 1" in message_of(tmp_path / "set", channels=("a", "b"))


@pytest.mark.real_data
def test_real_nuclei(data_folder: Path, tmp_path: Path) -> None:
    part = tmp_path / "nuclei"
    for kind in ("images", "labels"):
        (part / kind).mkdir(parents=True)
        for path in sorted((data_folder / "dsb2018" / kind / "val").glob("*.png"))[:12]:
            (part / kind / path.name).write_bytes(path.read_bytes())
    assert "numbered objects become one class with --above 0" in message_of(part)
    plan = plan_image_folder(part, above=0, names=("background", "nucleus"), colour="rgb")
    dataset, reports, _ = write_dataset(plan, tmp_path / "new")
    assert len(dataset.training) == 12
    assert {report.channels for report in reports} == {3}
    for case in dataset.training:
        instances = np.asarray(Image.open(part / "labels" / f"{case.name}.png"))
        assert case.label is not None
        np.testing.assert_array_equal(np.asarray(Image.open(case.label)), instances > 0)
