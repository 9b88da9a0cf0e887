"""Tests of detections of mirror images."""

from __future__ import annotations

import pytest
import torch

from monai_ext.inferers.detection_views import flipped_back, flips, fuse_views
from monai_ext.networks.mask_rcnn.structures import Detections
from monai_ext.ops.paste_masks import paste_masks


def found(boxes, scores, labels=None, masks=None):
    count = len(scores)
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels or [1] * count, dtype=torch.int64),
        torch.ones(count, 14, 14) if masks is None else masks,
    )


def test_views_of_axes():
    assert flips(()) == [()]
    assert flips((0, 1)) == [(), (0,), (1,), (0, 1)]


@pytest.mark.parametrize("view", flips((0, 1)))
def test_boxes_and_masks_come_back(view):
    masks = torch.rand(2, 14, 14, generator=torch.Generator().manual_seed(0))
    one = found([[3, 5, 17, 19], [20, 2, 34, 30]], [0.9, 0.8], masks=masks)
    painted = paste_masks(one.masks, one.boxes, 40, 50)
    mirrored = flipped_back(one, view, 40, 50)  # mirroring is its own inverse
    turned = paste_masks(mirrored.masks, mirrored.boxes, 40, 50)
    assert torch.equal(turned.flip(view) if view else turned, painted)
    back = flipped_back(mirrored, view, 40, 50)
    torch.testing.assert_close(back.boxes, one.boxes)
    assert torch.equal(back.masks, one.masks)


def test_scores_boxes_and_masks_are_averaged():
    half = torch.zeros(1, 14, 14)
    half[:, :7] = 1
    fused = fuse_views([found([[0, 0, 14, 14]], [0.9]), found([[0, 0, 14, 14]], [0.3], masks=half)])
    assert fused.scores.tolist() == pytest.approx([0.6])
    assert fused.masks[0, 0, 5] == pytest.approx(1.0)
    assert fused.masks[0, 13, 5] == pytest.approx(0.75)  # weighted by score
    moved = fuse_views([found([[0, 0, 10, 10]], [0.6]), found([[2, 0, 12, 10]], [0.2])])
    torch.testing.assert_close(moved.boxes, torch.tensor([[0.5, 0, 10.5, 10]]))


def test_what_one_view_sees_counts_less():
    fused = fuse_views([found([[0, 0, 10, 10], [30, 0, 40, 10]], [0.8, 0.9]), found([[0, 0, 10, 10]], [0.6])])
    assert fused.scores.tolist() == pytest.approx([0.7, 0.45])
    assert fused.boxes[0, 0] == 0


def test_an_object_takes_one_of_each_view_and_its_class_only():
    first = found([[0, 0, 10, 10]], [0.9], [1])
    second = found([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10]], [0.5, 0.4, 0.3], [1, 1, 2])
    fused = fuse_views([first, second])
    assert fused.scores.tolist() == pytest.approx([0.7, 0.2, 0.15])
    assert fused.labels.tolist() == [1, 1, 2]


def test_limit_and_empty_views():
    views = [found([[0, 0, 10, 10], [20, 0, 30, 10]], [0.9, 0.8]), found([], [])]
    assert fuse_views(views, 1).scores.tolist() == pytest.approx([0.45])
    assert fuse_views([found([], []), found([], [])]).masks.shape == (0, 14, 14)
