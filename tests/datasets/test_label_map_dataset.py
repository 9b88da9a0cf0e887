"""Folders of images and instance label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coco_sets import write_coco, write_map
from monai_ext.datasets.instance_open import open_instances
from monai_ext.datasets.label_map_dataset import is_label_map_folder, read_instance_map, read_label_maps
from monai_ext.errors import InputError

IMAGE = np.full((6, 8), 9, dtype=np.uint8)
MAP = np.zeros((6, 8), dtype=np.uint16)
MAP[1:3, 2:5] = 700
MAP[4:, 6:] = 3

FORMS = {
    "parts inside": ("images/train/a.png", "labels/train/a.png"),
    "parts outside": ("train/images/a.png", "train/masks/a.tif"),
    "no parts": ("imgs/a.png", "masks/a_mask.png"),
    "one folder": ("a.png", "a_masks.png"),
    "one folder, both marked": ("a_img.png", "a_masks.tif"),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(tmp_path: Path, form: str) -> None:
    image, labels = FORMS[form]
    assert not is_label_map_folder(tmp_path)
    write_map(tmp_path / image, IMAGE)
    write_map(tmp_path / labels, MAP)
    assert is_label_map_folder(tmp_path)
    dataset = open_instances(tmp_path)
    (case,) = dataset.cases
    assert (case.name, case.size) == (image, (6, 8))
    assert case.split == ("train" if "parts" in form and form != "no parts" else "")
    found = case.instances()
    np.testing.assert_array_equal(found.label_map, np.searchsorted([0, 3, 700], MAP))
    assert found.label_map.dtype == np.int32
    assert found.ids.tolist() == [3, 700]
    assert found.labels.tolist() == [1, 1]
    assert found.boxes().tolist() == [[6, 4, 8, 6], [2, 1, 5, 3]]
    objects = case.objects()
    assert [(one.id, one.label, one.crowd) for one in objects] == [(3, 1, False), (700, 1, False)]
    for one in objects:
        np.testing.assert_array_equal(one.runs(*case.size).mask(), one.id == MAP)


@pytest.mark.parametrize(
    ("dtype", "ending"),
    [(d, e) for d in ("uint8", "uint16", "bool") for e in (".png", ".tif", ".bmp") if (d, e) != ("uint16", ".bmp")]
    + [(d, ".tif") for d in ("int16", "int32", "float32")],
)
def test_kinds_of_pixels(tmp_path: Path, dtype: str, ending: str) -> None:
    labels = np.arange(48).reshape(6, 8) % 2 if dtype == "bool" else np.arange(48).reshape(6, 8)
    stored = labels.astype(dtype)
    found = read_instance_map(write_map(tmp_path / f"m{ending}", stored), (6, 8))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, labels)


def test_large_numbers_and_equal_channels(tmp_path: Path) -> None:
    high = np.where(MAP > 0, MAP.astype(np.int32) + 2**24, 0)
    write_map(tmp_path / "images" / "a.png", IMAGE)
    write_map(tmp_path / "labels" / "a.tif", high)
    found = read_label_maps(tmp_path).cases[0].instances()
    assert found.ids.tolist() == [2**24 + 3, 2**24 + 700]
    np.testing.assert_array_equal(found.label_map, np.searchsorted([0, 3, 700], MAP))
    grey = np.repeat((MAP > 0).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_instance_map(write_map(tmp_path / "c.png", grey)), MAP > 0)


def test_label_maps_that_are_refused(tmp_path: Path) -> None:
    def refused(name: str, labels: np.ndarray, message: str) -> None:
        with pytest.raises(InputError, match=message):
            read_instance_map(write_map(tmp_path / name, labels), (6, 8))

    refused("size.png", MAP.T, r"has 8x6 pixels, its image 6x8 \(height x width\)")
    refused("half.tif", MAP.astype(np.float32) + 0.5, "must be whole numbers, found 0.5 in 48 pixels")
    refused("nan.tif", np.where(MAP > 3, np.nan, 0).astype(np.float32), "must be whole numbers, found nan in 6 pixels")
    refused("minus.tif", MAP.astype(np.int32) - 5, "label values from -5 to 695")
    refused("colour.png", np.arange(144, dtype=np.uint8).reshape(6, 8, 3), "is no label map but has shape 6x8x3")
    refused("lossy.jpg", MAP.astype(np.uint8), "label maps are read from .png")
    broken = write_map(tmp_path / "cut.png", MAP)
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(InputError, match=r"cut.png: cannot be read"):
        read_instance_map(broken)
    with pytest.raises(InputError, match="does not exist"):
        read_instance_map(tmp_path / "none.png")


def test_images_and_label_maps_must_pair(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_map(tmp_path / "images" / f"{name}.png", IMAGE)
    write_map(tmp_path / "images" / "c.tif", IMAGE)
    write_map(tmp_path / "labels" / "a.png", MAP)
    write_map(tmp_path / "labels" / "x.png", MAP)
    (tmp_path / "images" / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError) as caught:
        read_label_maps(tmp_path)
    text = str(caught.value)
    assert "4 problems" in text
    assert "several files are named c: c.png, c.tif" in text
    assert "2 images: have no label map: b, c" in text
    assert "1 label maps: have no image: x" in text
    assert "a.png: cannot be read" in text


def test_images_without_label_map_may_be_left_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_map(tmp_path / "images" / f"{name}.png", IMAGE)
    write_map(tmp_path / "labels" / "a.png", MAP)
    dataset = read_label_maps(tmp_path, "nucleus", require_labels=False)
    assert [case.name for case in dataset.cases] == ["images/a.png"]
    assert dataset.classes == ("nucleus",)
    assert dataset.notes == ("left out: 1 images have no label map: b",)


def test_images_to_be_predicted_need_no_label_map(tmp_path: Path) -> None:
    write_map(tmp_path / "images" / "train" / "a.png", IMAGE)
    write_map(tmp_path / "labels" / "train" / "a.png", MAP)
    write_map(tmp_path / "images" / "test" / "t.png", IMAGE)
    dataset = read_label_maps(tmp_path)
    assert [case.name for case in dataset.part("test")] == ["images/test/t.png"]
    assert not dataset.part("test")[0].instances().label_map.any()


def test_table_adds_attributes(tmp_path: Path) -> None:
    write_map(tmp_path / "images" / "a.png", IMAGE)
    write_map(tmp_path / "labels" / "a.png", MAP)
    (tmp_path / "images.csv").write_text("file,type\na.png,light\n")
    assert read_label_maps(tmp_path).where(type="light").cases[0].attributes == {"type": "light"}


def test_choice_of_the_layout(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    for name in ("1", "2"):
        write_map(root / "labels" / "train" / f"{name}.png", np.ones((10, 12), dtype=np.uint8))
    assert open_instances(root).classes == ("cell",)
    assert open_instances(root, "label_maps").classes == ("object",)
    with pytest.raises(InputError, match="--layout voc: is not known"):
        open_instances(root, "voc")
    with pytest.raises(InputError, match="label maps have one class, the model has 2"):
        open_instances(root, "label_maps", classes=("a", "b"))
    with pytest.raises(InputError, match="dataset folder does not exist"):
        open_instances(root / "none")
    with pytest.raises(InputError, match="is neither COCO nor images with label maps"):
        open_instances(root / "images")
    with pytest.raises(InputError, match="holds no images with label maps"):
        read_label_maps(root / "annotations")


@pytest.mark.real_data
def test_nuclei_as_label_maps(data_folder: Path) -> None:
    dataset = open_instances(data_folder / "dsb2018", "label_maps", classes=("nucleus",))
    assert (len(dataset.part("train")), len(dataset.part("val"))) == (492, 90)
    assert len(dataset.where(type="fluorescence").part("val")) == 71
    case = dataset.part("val")[0]
    assert len(case.instances().ids) == int(case.attributes["instances"])
