"""COCO folders become cases and label maps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coco_sets import annotation, content, write_coco
from monai_ext.datasets.coco_dataset import is_coco_folder, read_coco
from monai_ext.datasets.coco_masks import PixelRuns
from monai_ext.datasets.instance_open import open_instances
from monai_ext.errors import InputError


def box_annotation(number: int, x0: int, y0: int, x1: int, y1: int, **changes: object) -> dict[str, object]:
    polygon = [x0, y0, x1, y0, x1, y1, x0, y1]
    return annotation(number, segmentation=[polygon], bbox=[x0, y0, x1 - x0, y1 - y0], **changes)


def test_a_folder_of_two_parts(tmp_path: Path) -> None:
    write_coco(tmp_path, split="val2017")
    write_coco(tmp_path, split="train2017")
    assert is_coco_folder(tmp_path)
    dataset = read_coco(tmp_path)
    assert dataset.classes == ("cell",)
    assert dataset.category_ids == (1,)
    assert dataset.splits == ("train", "val")
    assert [case.name for case in dataset.part("val")] == ["images/val2017/1.png", "images/val2017/2.png"]
    first, second = dataset.part("train")
    assert (first.size, first.image_id, first.attributes) == ((10, 12), 1, {"type": "kind"})
    found = first.instances()
    wanted = np.zeros((10, 12), dtype=np.int32)
    wanted[1:4, 2:6] = 1
    np.testing.assert_array_equal(found.label_map, wanted)
    assert found.label_map.dtype == np.int32
    assert found.label_map.flags.c_contiguous
    assert found.boxes().tolist() == [[2, 1, 6, 4]]
    assert found.crowd is None
    empty = second.instances()
    assert not empty.label_map.any()
    assert empty.boxes().shape == (0, 4)
    assert empty.labels.shape == (0,)


@pytest.mark.parametrize("place", ["SPLIT", "images", "images with part"])
def test_other_places_of_images(tmp_path: Path, place: str) -> None:
    whole = content()
    root = write_coco(tmp_path, whole)
    folder = root / "images" / "train"
    if place == "images with part":
        for record in whole["images"]:
            record["file_name"] = f"train\\{record['file_name']}"
        (root / "annotations" / "instances_train.json").write_text(json.dumps(whole))
    elif place == "SPLIT":
        shutil.move(folder, root / "train")
    else:
        for path in folder.iterdir():
            shutil.move(path, root / "images")
        folder.rmdir()
    assert all(case.path.is_file() for case in read_coco(root).cases)


def test_the_smaller_object_is_seen(tmp_path: Path) -> None:
    records = [
        box_annotation(11, 4, 4, 6, 6),
        box_annotation(12, 1, 1, 9, 9),
        box_annotation(13, 0, 0, 12, 10),
    ]
    case = read_coco(write_coco(tmp_path, content(annotations=records))).cases[0]
    wanted = np.full((10, 12), 3)
    wanted[1:9, 1:9] = 2
    wanted[4:6, 4:6] = 1
    found = case.instances()
    np.testing.assert_array_equal(found.label_map, wanted)
    assert found.ids.tolist() == [11, 12, 13]
    assert found.hidden == 0


def test_hidden_objects_are_counted_and_get_no_number(tmp_path: Path) -> None:
    records = [
        box_annotation(1, 0, 0, 8, 4),
        box_annotation(2, 0, 0, 4, 4),
        box_annotation(3, 4, 0, 8, 4),
        box_annotation(4, 9, 5, 12, 10),
    ]
    found = read_coco(write_coco(tmp_path, content(annotations=records))).cases[0].instances()
    assert found.hidden == 1
    assert found.ids.tolist() == [2, 3, 4]
    assert sorted(np.unique(found.label_map)) == [0, 1, 2, 3]
    assert found.boxes().tolist() == [[0, 0, 4, 4], [4, 0, 8, 4], [9, 5, 12, 10]]


def test_crowd_regions_are_kept_apart(tmp_path: Path) -> None:
    region = np.zeros((10, 12), dtype=bool)
    region[:, 3:9] = True
    crowd = annotation(5, iscrowd=1, segmentation=PixelRuns.from_mask(region).to_coco(), bbox=[3, 0, 6, 10])
    crowd["segmentation"]["counts"] = PixelRuns.from_mask(region).counts().tolist()
    found = read_coco(write_coco(tmp_path, content(annotations=[crowd, annotation(1)]))).cases[0].instances()
    assert found.ids.tolist() == [1]
    assert found.crowd is not None
    np.testing.assert_array_equal(found.crowd, region & (found.label_map == 0))
    only = write_coco(tmp_path / "only", content(annotations=[crowd]))
    with pytest.raises(InputError, match="no object in 2 images, only 1 crowd regions"):
        read_coco(only)


def test_no_object_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no object in 2 images\. Cure"):
        read_coco(write_coco(tmp_path, content(annotations=[])))


def test_problems_of_all_parts_are_told_at_once(tmp_path: Path) -> None:
    write_coco(tmp_path, content(annotations=[annotation(1, image=9)]))
    write_coco(tmp_path, content(categories=[{"id": 2, "name": "other"}], annotations=[annotation(1)]), split="val")
    (tmp_path / "annotations" / "instances_test.json").write_text('{"images": [')
    with pytest.raises(InputError) as caught:
        read_coco(tmp_path)
    text = str(caught.value)
    assert "instances_train.json: 1 annotations: name an image that does not exist: id 1 (image 9)" in text
    assert "instances_val.json: 1 annotations: name a category that does not exist: id 1 (category 1)" in text
    assert "instances_val.json: has categories 2 other; instances_train.json has 1 cell" in text
    assert "instances_test.json: is no JSON" in text
    assert "4 problems" in text


def test_parts_of_one_name_must_be_chosen(tmp_path: Path) -> None:
    write_coco(tmp_path, split="train2014")
    write_coco(tmp_path, split="train2017")
    with pytest.raises(InputError, match=r"instances_train2014.json and instances_train2017.json are both 'train'"):
        read_coco(tmp_path)
    dataset = read_coco(tmp_path, splits={"train": "train2017"})
    assert [case.name for case in dataset.cases] == ["images/train2017/1.png", "images/train2017/2.png"]
    with pytest.raises(InputError, match=r"has no part train2020. Cure: choose from train2014, train2017"):
        read_coco(tmp_path, splits={"train": "train2020"})


def test_classes_of_a_model(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    assert read_coco(root, classes=("cell",)).classes == ("cell",)
    with pytest.raises(InputError, match="categories: are cell, the model has dog, cat"):
        read_coco(root, classes=("dog", "cat"))


def test_notes_name_the_file(tmp_path: Path) -> None:
    broken = [annotation(1), annotation(2, bbox=[0, 0, 0, 0])]
    dataset = read_coco(write_coco(tmp_path, content(annotations=broken)), skip_broken=True)
    assert dataset.notes == ("instances_train.json: left out: 1 annotations have a box without area: id 2 (0 x 0)",)


def test_images_without_file_or_of_another_size_can_be_left_out(tmp_path: Path) -> None:
    root = write_coco(tmp_path, content(images=[
        {"id": n, "file_name": f"{n}.png", "height": 10, "width": 12 + (n == 2)} for n in (1, 2, 3)
    ]))  # fmt: skip
    (root / "images" / "train" / "3.png").unlink()
    dataset = read_coco(root, skip_broken=True)
    assert [case.image_id for case in dataset.cases] == [1]
    told = "\n".join(dataset.notes)
    assert "left out: 1 images have no file: images/train/3.png" in told
    assert "left out: 1 images have another size" in told
    assert "images/train/2.png (file 10x12, stated 10x13)" in told


def test_choice_by_attributes(tmp_path: Path) -> None:
    whole = content()
    whole["images"][1]["type"] = "other"
    dataset = read_coco(write_coco(tmp_path, whole))
    assert [case.image_id for case in dataset.where(type="other").cases] == [2]
    assert [case.image_id for case in dataset.where(type=("other", "kind")).cases] == [1, 2]
    with pytest.raises(InputError, match=r"no image has type = none. Cure: values are kind, other"):
        dataset.where(type="none")
    with pytest.raises(InputError, match=r"no image has stain = HE. Cure: there are type"):
        dataset.where(stain="HE")
    with pytest.raises(InputError, match=r"has no image 'x'. Cure: .* such as images/train/1.png"):
        dataset.case("x")


def test_folders_that_are_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        read_coco(tmp_path / "none")
    with pytest.raises(InputError, match=r"holds no annotations/instances_SPLIT.json"):
        read_coco(tmp_path)


@pytest.mark.real_data
def test_nuclei_agree_with_their_label_maps(data_folder: Path) -> None:
    dataset = open_instances(data_folder / "dsb2018")
    assert (len(dataset.part("train")), len(dataset.part("val"))) == (492, 90)
    assert sum(len(case.annotations) for case in dataset.cases) == 22335 + 3227
    assert len(dataset.where(type="fluorescence").part("val")) == 71
    for case in dataset.part("val"):
        found = case.instances()
        stored = np.asarray(Image.open(data_folder / "dsb2018" / "labels" / "val" / case.path.name))
        np.testing.assert_array_equal(found.label_map, stored)
        boxes = np.array([annotation.box for annotation in case.annotations])
        np.testing.assert_array_equal(found.boxes(), boxes)
