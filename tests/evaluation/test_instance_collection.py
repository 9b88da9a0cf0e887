"""All scores of a set of images together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from drawn_objects import disc_case, disc_detections
from monai_ext.datasets.instance_dataset import InstanceCase
from monai_ext.datasets.instance_open import open_instances
from monai_ext.evaluation.instance_collection import InstanceCollection, References
from monai_ext.networks.mask_rcnn.structures import Detections

SIZE = (64, 80)
DISCS = [(12, 12, 8), (40, 20, 9), (60, 45, 10)]


def annotated_detections(case: InstanceCase) -> Detections:
    """What is annotated, as masks of 56 x 56 in its boxes."""
    seen = case.instances()
    boxes = torch.from_numpy(seen.boxes())
    masks = torch.zeros(len(boxes), 56, 56)
    for value, (x0, y0, x1, y1) in enumerate(boxes.int().tolist(), 1):
        inside = torch.from_numpy(seen.label_map[y0:y1, x0:x1] == value).float()[None, None]
        masks[value - 1] = torch.nn.functional.interpolate(inside, (56, 56), mode="bilinear")[0, 0]
    scores = torch.linspace(0.99, 0.6, len(boxes))
    return Detections(boxes, scores, torch.from_numpy(seen.labels), masks)


def test_order_of_images_and_device_copies_do_not_matter(tmp_path: Path) -> None:
    references = References([disc_case(tmp_path, name, SIZE, DISCS) for name in "ab"])
    given = {
        "images/a.png": disc_detections(DISCS, [0.9, 0.8, 0.7]),
        "images/b.png": disc_detections([(30, 50, 6), DISCS[0]], [0.85, 0.75]),
    }
    results = []
    for names in (list(given), list(given)[::-1]):
        collection = InstanceCollection(1)
        for name in names:
            detections = Detections(
                *(tensor.clone().requires_grad_(tensor.is_floating_point()) for tensor in given[name])
            )
            collection.add(name, references[name], detections)
        results.append(collection.overall())
    assert results[0] == pytest.approx(results[1], nan_ok=True)
    assert 0 < results[0]["mask_ap50"] < 1


def test_weak_detections_count_for_coco_only(tmp_path: Path) -> None:
    references = References([disc_case(tmp_path, "a", SIZE, DISCS)])
    collection = InstanceCollection(1, by_size=False)
    collection.add("images/a.png", references["images/a.png"], disc_detections(DISCS, [0.9, 0.4, 0.1]))
    scores = collection.overall()
    assert scores["mask_ap50"] == 1
    assert scores["nuclei_ap50"] == pytest.approx(1 / 3)
    assert collection.maps.overall(0.3)["nuclei_ap50"] == pytest.approx(2 / 3)
    assert not any("small" in name for name in scores)


@pytest.mark.real_data
def test_what_is_annotated_is_found(data_folder: Path) -> None:
    """Grids of 56 x 56 follow nuclei closely; borders may move by a fraction of a pixel."""
    dataset = open_instances(data_folder / "dsb2018")
    cases = dataset.where(type="fluorescence").part("val")[:12]
    references = References(cases)
    collection = InstanceCollection(1)
    for case in cases:
        collection.add(case.name, references[case.name], annotated_detections(case))
    scores = collection.overall()
    assert scores["box_ap"] == scores["mask_ap50"] == scores["nuclei_ap50"] == 1
    assert scores["mask_ap"] > 0.97
    assert scores["nuclei_ap_per_image"] > 0.97
    assert scores["nuclei_count_error"] == 0
    assert np.isnan(scores["mask_ap_large"])
