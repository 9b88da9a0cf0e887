"""What anchors learn from."""

from __future__ import annotations

import torch

from monai_ext.networks.mask_rcnn.anchor_targets import anchor_targets, of_objects, without_crowd
from monai_ext.networks.mask_rcnn.anchors import AnchorGrid
from monai_ext.networks.mask_rcnn.sampler import BalancedSampler
from small_detector import discs

ANCHORS = torch.cat(AnchorGrid(((12,), (24,)), strides=(4, 8))([(16, 16), (8, 8)]))


def overlaps(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clamp_min(0).prod(2)
    areas = [(one[:, 2:] - one[:, :2]).prod(1) for one in (boxes, others)]
    return shared / (areas[0][:, None] + areas[1] - shared)


def test_all_anchors_when_all_are_drawn() -> None:
    torch.manual_seed(0)
    targets = [discs(count, seed=count)[1] for count in (4, 0, 7)]
    found = anchor_targets(ANCHORS, targets, BalancedSampler(5000, 1.0), 0.6, 0.3)
    assert found.anchors.shape == found.labels.shape == (3, len(ANCHORS))
    for number, target in enumerate(targets):
        if target.ids.numel():
            values = overlaps(target.boxes, ANCHORS)
            best, objects = values.max(0)
            is_positive = (best >= 0.6) | (values == values.max(1, keepdim=True).values).any(0)
            is_negative = (best < 0.3) & ~is_positive
        else:
            is_positive, is_negative = torch.zeros(2, len(ANCHORS), dtype=torch.bool)
            is_negative = ~is_positive
        labels = torch.full((len(ANCHORS),), -9)
        labels[found.anchors[number]] = found.labels[number].long()
        assert (labels != -9).all()
        assert torch.equal(labels == 1, is_positive)
        assert torch.equal(labels == 0, is_negative)
        for place in range(len(ANCHORS)):
            anchor = found.anchors[number, place]
            if found.labels[number, place] == 1:
                assert torch.equal(found.boxes[number, place], target.boxes[objects[anchor]])
            else:
                assert torch.equal(found.boxes[number, place], ANCHORS[anchor])
    assert (found.labels[0] == 1).any()
    assert (found.labels[0] == -1).any()


def test_numbers_drawn() -> None:
    torch.manual_seed(0)
    targets = [discs(8)[1], discs(0)[1]]
    found = anchor_targets(ANCHORS, targets, BalancedSampler(32, 0.25), 0.4, 0.3)
    assert (found.labels == 1).sum(1).tolist() == [8, 0]
    assert (found.labels == 0).sum(1).tolist() == [24, 32]


def test_half_in_a_crowd_region() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [6, 0, 16, 10], [20, 20, 30, 30], [8, 8, 8, 12]])
    states = torch.tensor([1, 0, 0, 1, 0], dtype=torch.int8)
    crowd = torch.tensor([[0.0, 0, 10, 40], [12, 0, 16, 40]])
    # the first stays positive; the third lies in the two regions by 4/10 each: neither holds half of it; the last has
    # no area
    assert without_crowd(states, boxes, crowd).tolist() == [1, -1, 0, 1, 0]
    assert without_crowd(states, boxes, crowd[:0]) is states


def test_values_of_objects() -> None:
    values = [torch.tensor([10, 11]), torch.zeros(0, dtype=torch.int64), torch.tensor([30])]
    found = of_objects(values, torch.tensor([[1, 0], [0, 0], [0, 0]]))
    assert found[0].tolist() == [11, 10]
    assert found[2].tolist() == [30, 30]
    none = of_objects([torch.zeros(0, 4)], torch.zeros(1, 5, dtype=torch.int64))
    assert none.shape == (1, 5, 4)
