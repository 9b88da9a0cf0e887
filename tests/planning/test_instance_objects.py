"""Boxes of objects: the same from both layouts, crowding against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coco_sets import annotation, content, write_coco, write_map
from monai_ext.datasets.instance_open import open_instances
from monai_ext.planning.instance_objects import ObjectBoxes, object_boxes


def test_boxes_of_coco_are_cut_and_without_crowds(tmp_path: Path) -> None:
    crowd = {"size": [10, 12], "counts": [0, 5, 115]}
    records = [
        annotation(1, bbox=[2, 1, 10.5, 3]),  # reaches half a pixel out of the image
        annotation(2, image=2),
        annotation(3, image=2, iscrowd=1, segmentation=crowd, bbox=[0, 0, 1, 5]),
    ]
    found = object_boxes(open_instances(write_coco(tmp_path, content(annotations=records))).cases)
    np.testing.assert_array_equal(found.boxes, [[2, 1, 12, 4], [2, 1, 6, 4]])
    np.testing.assert_array_equal(found.images, [0, 1])
    np.testing.assert_array_equal(found.image_sizes, [[10, 12], [10, 12]])
    np.testing.assert_allclose(found.fit_factors((20, 30)), 2)


def test_boxes_of_label_maps(tmp_path: Path) -> None:
    labels = np.zeros((10, 12), dtype=np.uint8)
    labels[1:4, 2:6], labels[5:9, 0:3] = 7, 3
    for name, values in (("a", labels), ("b", labels * 0), ("c", labels)):
        write_map(tmp_path / "images" / f"{name}.png", labels)
        write_map(tmp_path / "labels" / f"{name}.png", values)
    cases = open_instances(tmp_path).cases
    found = object_boxes(cases)
    assert sorted(map(tuple, found.boxes[:2].tolist())) == [(0, 5, 3, 9), (2, 1, 6, 4)]
    np.testing.assert_array_equal(found.counts, [2, 0, 2])
    assert found.beyond(1) == (2, 2)
    assert found.beyond(2) == (0, 0)
    assert len(object_boxes(cases, most=2).sizes) == 2


def test_crowding_is_that_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 30, (60, 2))
    boxes = np.concatenate([low, low + rng.uniform(3, 20, (60, 2))], axis=1)
    images = np.repeat([0, 2, 3], [40, 19, 1])
    found = ObjectBoxes(boxes, images, np.full((4, 2), 60.0))
    expected = np.zeros(60)
    for i in range(60):
        for j in range(60):
            if i != j and images[i] == images[j]:
                sides = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2])
                shared = max(sides[0], 0) * max(sides[1], 0)
                areas = [np.prod(boxes[k, 2:] - boxes[k, :2]) for k in (i, j)]
                expected[i] = max(expected[i], shared / (sum(areas) - shared))
    np.testing.assert_allclose(found.crowding(), expected, atol=1e-12)
    monkeypatch.setattr("monai_ext.planning.instance_objects.ROWS_AT_ONCE", 7)  # blocks that do not divide an image
    np.testing.assert_allclose(found.crowding(), expected, atol=1e-12)
    assert "0.5: " in found.describe()
