"""Matching of detections: what is lost, added, moved or named otherwise shows."""

from __future__ import annotations

import pytest
import torch

from monai_ext.export.detection_comparison import compare_detections, match
from monai_ext.networks.mask_rcnn.structures import Detections

IMAGE = torch.zeros(1, 1, 50, 100)


def detections(count: int = 4) -> Detections:
    left = 20.0 * torch.arange(count)
    boxes = torch.stack([left, torch.zeros(count), left + 10, torch.full((count,), 8.0)], dim=1)
    masks = torch.linspace(0, 1, count)[:, None, None].expand(count, 28, 28).clone()
    return Detections(boxes, 0.9 - 0.1 * torch.arange(count), torch.arange(count) % 2 + 1, masks)


def difference(found: Detections, expected: Detections | None = None) -> tuple[float, float]:
    result = compare_detections(lambda _: expected or detections(), lambda _: found, [IMAGE])
    return result.max_difference, result.agreement


def picked(order: list[int]) -> Detections:
    return Detections(*(value[order] for value in detections()))


def test_the_same_in_any_order() -> None:
    assert difference(detections()) == (0, 1)
    assert difference(picked([2, 0, 3, 1])) == (0, 1)
    assert difference(detections(0), detections(0)) == (0, 1)


def test_what_is_lost_or_added() -> None:
    assert difference(picked([0, 1])) == (0, pytest.approx(4 / 6))
    assert difference(picked([0, 1, 2, 3, 3])) == (0, pytest.approx(8 / 9))  # one twice
    assert difference(detections(0)) == (0, 0)


def test_each_kind_of_difference() -> None:
    usual = detections()
    assert difference(usual._replace(boxes=usual.boxes + 1)) == (pytest.approx(0.01), 1)  # of the longer side
    assert difference(usual._replace(scores=usual.scores - 0.2)) == (pytest.approx(0.2), 1)
    assert difference(usual._replace(masks=usual.masks + 0.3)) == (pytest.approx(0.3), 1)
    assert difference(usual._replace(labels=3 - usual.labels)) == (0, 0)
    assert difference(usual._replace(boxes=usual.boxes + 8)) == (0, 0)  # too far for the same object
    assert difference(usual._replace(scores=usual.scores * torch.nan))[0] == float("inf")


def test_the_nearer_one_is_matched() -> None:
    one = picked([0])
    two = Detections(*(torch.cat([value, value]) for value in one))
    two = two._replace(boxes=two.boxes + torch.tensor([[2.0], [0.5]]))
    assert match(one, two).tolist() == [[0, 1]]
    assert match(two, one).tolist() == [[1, 0]]
