"""Objects in windows against whole planes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from coco_sets import annotation, content, write_coco
from drawn_objects import disc_case, disc_map
from monai_ext.datasets.coco_dataset import read_coco
from monai_ext.evaluation import instance_objects
from monai_ext.evaluation.instance_objects import (
    ImageObjects,
    box_overlaps,
    mask_overlaps,
    objects_of_detections,
    objects_of_label_map,
    only,
    reference_of,
)
from monai_ext.networks.mask_rcnn.structures import Detections
from monai_ext.ops.paste_masks import paste_mask

SIZE = (60, 80)


def random_detections(seed: int, count: int = 40) -> Detections:
    """Of random boxes, some beyond the image, in no order."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand((count, 2), generator=generator) * torch.tensor([90.0, 70.0]) - 5
    boxes = torch.cat([corner, corner + 1 + 25 * torch.rand((count, 2), generator=generator)], 1)
    masks = torch.rand((count, 7, 7), generator=generator) * 0.5 + 0.3
    labels = torch.randint(1, 3, (count,), generator=generator)
    return Detections(boxes, torch.rand(count, generator=generator), labels, masks)


def planes(objects: ImageObjects) -> np.ndarray:
    result = np.zeros((len(objects), *SIZE), dtype=bool)
    for plane, mask in zip(result, objects.masks, strict=True):
        height, width = mask.inside.shape
        plane[mask.top : mask.top + height, mask.left : mask.left + width] = mask.inside
    return result


def test_masks_of_detections() -> None:
    detections = random_detections(0)
    objects = objects_of_detections(detections, *SIZE)
    order = detections.scores.argsort(descending=True)
    assert (np.diff(objects.scores) <= 0).all()
    assert objects.labels.tolist() == detections.labels[order].tolist()
    np.testing.assert_array_equal(objects.boxes, detections.boxes[order].double().numpy())
    for mask, index in zip(objects.masks, order.tolist(), strict=True):
        inside, corner = paste_mask(detections.masks[index], detections.boxes[index], *SIZE)
        assert (mask.top, mask.left) == tuple(corner.tolist())
        np.testing.assert_array_equal(mask.inside, inside.numpy())
    assert objects.areas.tolist() == planes(objects).sum((1, 2)).tolist()


@pytest.mark.parametrize("pairs_at_once", [2**22, 50])
def test_overlaps(pairs_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_objects, "PAIRS_AT_ONCE", pairs_at_once)
    found, reference = (objects_of_detections(random_detections(seed, 60), *SIZE) for seed in (1, 2))
    crowd = np.arange(len(reference)) % 4 == 0
    reference = ImageObjects(reference.boxes, reference.labels, reference.masks, reference.scores, crowd)
    a, b = planes(found).reshape(60, -1).astype(int), planes(reference).reshape(60, -1).astype(int)
    shared, areas = a @ b.T, a.sum(1)[:, None]
    unions = np.where(crowd, areas, areas + b.sum(1) - shared)
    expected = np.divide(shared, unions, out=np.zeros(shared.shape), where=unions > 0)
    for least in (0.5, 0.1):
        rows, columns, values = mask_overlaps(found, reference, least)
        np.testing.assert_array_equal(np.stack([rows, columns], 1), np.argwhere(expected >= least))
        np.testing.assert_allclose(values, expected[rows, columns], rtol=1e-12)
    assert 50 < len(values) < 3000  # of 3600 pairs


def test_overlaps_of_boxes() -> None:
    found, reference = (objects_of_detections(random_detections(seed, 30), *SIZE) for seed in (3, 4))
    rows, columns, values = box_overlaps(found, reference, 0.2)
    seen = set()
    for i, box in enumerate(found.boxes):
        for k, other in enumerate(reference.boxes):
            width = min(box[2], other[2]) - max(box[0], other[0])
            height = min(box[3], other[3]) - max(box[1], other[1])
            both = max(width, 0) * max(height, 0)
            area = (box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1])
            if both / (area - both) >= 0.2:
                seen.add((i, k, round(both / (area - both), 9)))
    assert seen == {(int(i), int(k), round(float(v), 9)) for i, k, v in zip(rows, columns, values, strict=True)}
    assert len(seen) > 5


def test_no_objects() -> None:
    none = only(objects_of_detections(random_detections(0), *SIZE), [])
    some = objects_of_detections(random_detections(1), *SIZE)
    for first, second in ((none, some), (some, none), (none, none)):
        for overlaps in (mask_overlaps, box_overlaps):
            assert [len(part) for part in overlaps(first, second, 0.5)] == [0, 0, 0]


def test_reference_of_a_label_map(tmp_path: Path) -> None:
    discs = [(12, 12, 8), (40, 20, 9), (60, 45, 10)]
    case = disc_case(tmp_path, "a", SIZE, discs)
    reference = reference_of(case)
    labels = disc_map(SIZE, discs)
    np.testing.assert_array_equal(reference.label_map, labels)
    assert reference.label_map.dtype == np.uint16
    np.testing.assert_array_equal(planes(reference.objects), np.stack([labels == v for v in (1, 2, 3)]))
    assert reference.objects.boxes.tolist() == [[4, 4, 20, 20], [31, 11, 49, 29], [50, 35, 70, 55]]
    assert reference.crowd is None
    assert reference.nbytes == 2 * 60 * 80 + 16**2 + 18**2 + 20**2
    assert len(objects_of_label_map(np.zeros(SIZE, dtype=np.int32), np.zeros(0, dtype=np.int64))) == 0


def test_reference_of_coco_may_overlap(tmp_path: Path) -> None:
    """For COCO's AP objects are whole; on the label map the smaller one is seen and the crowd region nowhere."""
    large = annotation(7, segmentation=[[0, 0, 8, 0, 8, 8, 0, 8]], bbox=[0, 0, 8, 8], area=64)
    runs = {"size": [10, 12], "counts": [95, 25]}
    crowd = annotation(9, segmentation=runs, bbox=[9, 0, 3, 10], area=25, iscrowd=1)
    write_coco(tmp_path, content(annotations=[annotation(1), large, crowd]))
    reference = reference_of(read_coco(tmp_path).cases[0])
    assert reference.objects.areas.tolist() == [12, 64, 25]
    assert reference.objects.crowd.tolist() == [False, False, True]
    assert np.bincount(reference.label_map.ravel()).tolist() == [120 - 64, 12, 52]
    assert reference.crowd is not None
    assert reference.crowd.sum() == 25
