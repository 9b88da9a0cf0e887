"""From classes and boxes of proposals to detections."""

from __future__ import annotations

import torch

from monai_ext.networks.mask_rcnn.box_coder import HEAD_WEIGHTS, encode
from monai_ext.networks.mask_rcnn.box_detections import DetectionLimits, box_detections

PROPOSALS = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 50, 50], [31, 30, 51, 50], [90, 90, 99, 99]])


def given(shares: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of shares (background first) and deltas that move nothing."""
    scores = torch.tensor(shares)
    return scores.log(), torch.zeros(len(shares), scores.shape[1] - 1, 4)


def test_score_class_suppression_and_order() -> None:
    logits, deltas = given([[0.1, 0.6, 0.3], [0.1, 0.2, 0.7], [0.2, 0.8, 0.0], [0.1, 0.9, 0.0], [0.5, 0.04, 0.46]])
    boxes, scores, labels = box_detections(logits, deltas, PROPOSALS, (100, 100), DetectionLimits(0.05, 0.5, 100))
    # the third goes for the fourth, and 0.3 of the first for 0.7 of the second, but not 0.6, which is another class;
    # the same of 0.2 of the second
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.7, 0.6, 0.46]))
    assert labels.tolist() == [1, 2, 1, 2]
    assert torch.equal(boxes, PROPOSALS[[3, 1, 0, 4]])


def test_the_class_decides_on_the_box_which_stays_in_the_image() -> None:
    logits, deltas = given([[0.1, 0.2, 0.7]])
    deltas[0, 0] = 5.0
    wanted = torch.tensor([[4.0, -3.0, 60.0, 9.0]])
    deltas[0, 1] = encode(wanted, PROPOSALS[:1], HEAD_WEIGHTS)
    boxes, _, labels = box_detections(logits, deltas, PROPOSALS[:1], (40, 50), DetectionLimits(score=0.5))
    assert labels.tolist() == [2]
    torch.testing.assert_close(boxes, torch.tensor([[4.0, 0.0, 50.0, 9.0]]))


def test_most_and_none() -> None:
    logits, deltas = given([[0.1, 0.9]] * 5)
    assert box_detections(logits, deltas, PROPOSALS, (100, 100), DetectionLimits(count=2))[1].numel() == 2
    # what lies outside has no area, what is not finite is nothing
    outside = box_detections(logits, deltas, PROPOSALS + 200, (100, 100), DetectionLimits())
    assert [tuple(part.shape) for part in outside] == [(0, 4), (0,), (0,)]
    deltas[:3] = torch.nan
    assert box_detections(logits, deltas, PROPOSALS, (100, 100), DetectionLimits())[1].numel() == 2
    nothing = box_detections(logits[:0], deltas[:0], PROPOSALS[:0], (100, 100), DetectionLimits())
    assert nothing[0].shape == (0, 4)
