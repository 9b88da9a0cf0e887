"""The phantom: the same every time, masks as its pictures show them, and all three forms of masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.datasets.coco_dataset import read_coco
from monai_ext.datasets.instance_check import check_instances
from monai_ext.datasets.instance_phantom import CLASSES, draw_scene, make_instance_phantom
from monai_ext.errors import InputError


def test_layout_and_content(tmp_path: Path) -> None:
    folder = make_instance_phantom(tmp_path / "p", num_train=5, num_val=2)
    dataset = read_coco(folder)
    report = check_instances(dataset)
    assert dataset.classes == CLASSES
    assert not report.warnings
    assert (report.images, report.empty_images) == ({"train": 5, "val": 2}, {"train": 1, "val": 0})
    counts = [len(case.annotations) for case in dataset.cases]
    assert counts[4] == 0  # the last one of the training part
    assert all(3 <= count <= 12 for count in counts[:4] + counts[5:])
    forms = {type(one.counts).__name__ for case in dataset.cases for one in case.annotations}
    assert forms == {"NoneType", "str", "ndarray"}  # polygons, packed and unpacked run lengths
    stored = np.asarray(Image.open(folder / "images" / "val" / "006.png"))
    image, objects = draw_scene(0, 6)
    np.testing.assert_array_equal(stored, image)
    np.testing.assert_array_equal([one.area for one in (o.runs for o in objects)], _areas(folder, 7))
    assert not np.array_equal(image, draw_scene(1, 6)[0])


def _areas(folder: Path, image_id: int) -> list[int]:
    content = json.loads((folder / "annotations" / "instances_val.json").read_text())
    return [one["area"] for one in content["annotations"] if one["image_id"] == image_id]


def test_objects_are_bright_disjoint_and_some_touch() -> None:
    touching = cut = 0
    for index in range(12):
        image, objects = draw_scene(0, index)
        total = np.zeros(image.shape, dtype=np.int64)
        for one in objects:
            total += one.runs.mask()
            assert image[one.runs.mask()].mean() > image[total == 0].mean() + 30  # grey values
            cut += one.polygon is None
        assert total.max() == 1
        labels = np.zeros(image.shape, dtype=np.int64)
        for number, one in enumerate(objects, 1):
            labels[one.runs.mask()] = number
        for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            touching += int(((a != b) & (a > 0) & (b > 0)).any())
    assert touching >= 4
    assert cut >= 1


def test_brightness_does_not_tell_the_class() -> None:
    means: dict[int, list[float]] = {1: [], 2: []}
    for index in range(40):
        image, objects = draw_scene(0, index)
        for one in objects:
            means[one.label].append(float(image[one.runs.mask()].mean()))
    disc, blob = (np.array(means[label]) for label in (1, 2))
    # share of pairs in which the disc is the brighter one; 0.5 is chance
    assert 0.25 < (disc[:, None] > blob).mean() < 0.75


def test_a_finished_phantom_is_left_alone_and_others_are_replaced(tmp_path: Path) -> None:
    folder = make_instance_phantom(tmp_path, num_train=2, num_val=1, size=64)
    files = [*folder.rglob("*.png"), *folder.rglob("*.json")]
    times = {path: path.stat().st_mtime_ns for path in files}
    make_instance_phantom(tmp_path, 2, 1, 64)
    assert {path: path.stat().st_mtime_ns for path in files} == times
    (folder / "images" / "train" / "001.png").unlink()
    make_instance_phantom(tmp_path, 2, 1, 64)
    assert (folder / "images" / "train" / "001.png").exists()
    make_instance_phantom(tmp_path, 3, 1, 64)
    assert sum(1 for _ in folder.rglob("*.png")) == 4
    assert [path.name for path in folder.glob(".*")] == [".phantom-1-3-1-64-0"]


def test_other_files_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="holds files that are no phantom"):
        make_instance_phantom(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    for numbers in ((1, 1, 96), (2, 0, 96), (2, 1, 40)):
        with pytest.raises(InputError, match="at least 2 and 1 of 64 pixels"):
            make_instance_phantom(tmp_path / "x", *numbers)
