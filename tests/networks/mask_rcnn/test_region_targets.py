"""What the heads learn from."""

from __future__ import annotations

import torch

from monai_ext.networks.mask_rcnn.region_targets import first_of_each, region_targets
from monai_ext.networks.mask_rcnn.sampler import BalancedSampler
from small_detector import discs, targets_of


def label_map() -> torch.Tensor:
    values = torch.zeros(40, 40, dtype=torch.int32)
    values[0:10, 0:10] = 5
    values[20:30, 20:40] = 2
    return values


PROPOSALS = torch.tensor(
    [[0.0, 0, 10, 20], [0, 0, 10, 21], [19, 20, 40, 30], [30, 0, 35, 5], [0, 0, 0, 0], [22, 22, 22, 30]]
)


def test_matches() -> None:
    torch.manual_seed(0)
    target = targets_of(label_map(), classes=3)
    found = region_targets([PROPOSALS], [target], BalancedSampler(50, 1.0))
    assert found.rois.shape == (8, 5)
    assert (found.rois[:, 0] == 0).all()
    rows = {
        tuple(roi[1:]): (label, tuple(box), number)
        for roi, label, box, number in zip(
            found.rois.tolist(), found.labels.tolist(), found.boxes.tolist(), found.ids.tolist(), strict=True
        )
        if label >= 0
    }
    large, small = (20.0, 20.0, 40.0, 30.0), (0.0, 0.0, 10.0, 10.0)
    assert rows == {
        small: (1 + 5 % 3, small, 5),
        large: (1 + 2 % 3, large, 2),
        (0, 0, 10, 20): (1 + 5 % 3, small, 5),  # exactly half
        (0, 0, 10, 21): (0, (0, 0, 10, 21), 0),
        (19, 20, 40, 30): (1 + 2 % 3, large, 2),
        (30, 0, 35, 5): (0, (30, 0, 35, 5), 0),
    }
    assert (found.labels == -1).sum() == 2  # without area


def test_numbers_and_images() -> None:
    torch.manual_seed(0)
    targets = [discs(6)[1], discs(0)[1]]
    random = torch.rand(30, 2) * 40
    proposals = [torch.cat([random, random + 9], 1), torch.zeros(12, 4)]
    proposals[1][:3] = torch.tensor([1.0, 2, 3, 4])
    found = region_targets(proposals, targets, BalancedSampler(12, 0.25))
    assert found.rois[:, 0].tolist() == [0] * 12 + [1] * 12
    first, second = found.labels.view(2, 12)
    assert (first > 0).tolist() == [True] * 3 + [False] * 9
    assert (first == 0).sum() == 9
    assert second.tolist() == [0] * 3 + [-1] * 9
    assert set(found.ids[:3].tolist()) <= set(targets[0].ids.tolist())
    assert not found.ids[3:].any()


def test_crowd_and_nothing() -> None:
    torch.manual_seed(0)
    target = targets_of(label_map())._replace(crowd=torch.tensor([[0.0, 0.0, 40.0, 30.0]]))
    found = region_targets([PROPOSALS], [target], BalancedSampler(50))
    assert (found.labels > 0).sum() == 4  # objects, and what matches them
    assert (found.labels == -1).sum() == 4
    empty = region_targets([torch.zeros(0, 4)], [discs(0)[1]], BalancedSampler(50))
    assert empty.rois.shape == (0, 5)


def test_first_of_each_image() -> None:
    images = torch.tensor([0.0, 0, 0, 2, 2, 3])
    assert first_of_each(images, 5, 2).tolist() == [True, True, False, True, True, True]
    assert first_of_each(images[:0], 5, 2).tolist() == []
