"""Proposals: the best, decoded, within the image, not twice."""

from __future__ import annotations

import pytest
import torch

from monai_ext.networks.mask_rcnn.box_coder import decode
from monai_ext.networks.mask_rcnn.proposals import ProposalLimits, best_proposals

COUNTS = (60, 25, 4)


def inputs(images: int = 2) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    random = torch.Generator().manual_seed(0)
    logits = [torch.randn(images, count, generator=random) for count in COUNTS]
    deltas = [0.3 * torch.randn(images, count, 4, generator=random) for count in COUNTS]
    anchors = []
    for level, count in enumerate(COUNTS):
        corner = torch.rand(count, 2, generator=random) * 60 - 5
        anchors.append(torch.cat([corner, corner + 8 * 2**level], 1))
    return logits, deltas, anchors


def overlap(one: list[float], other: list[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def slowly(
    logits: list[torch.Tensor],
    deltas: list[torch.Tensor],
    anchors: list[torch.Tensor],
    size: tuple[int, int],
    limits: ProposalLimits,
) -> list[list[float]]:
    """One image, one box at a time."""
    kept: list[tuple[float, list[float]]] = []
    for scores, moved, starts in zip(logits, deltas, anchors, strict=True):
        boxes = decode(moved, starts)
        boxes[:, 0::2].clamp_(0, size[1])
        boxes[:, 1::2].clamp_(0, size[0])
        of_level: list[tuple[float, list[float]]] = []
        for place in scores.argsort(descending=True)[: limits.pre_nms].tolist():
            box = boxes[place].tolist()
            if box[2] - box[0] <= limits.min_size or box[3] - box[1] <= limits.min_size:
                continue
            if all(overlap(other, box) <= limits.nms for _, other in of_level):
                of_level.append((scores[place].item(), box))
        kept += of_level
    kept.sort(key=lambda pair: -pair[0])
    return [box for _, box in kept[: limits.post_nms]]


@pytest.mark.parametrize(
    "limits",
    [ProposalLimits(), ProposalLimits(20, 1000, 0.5), ProposalLimits(30, 10, 0.3), ProposalLimits(40, 50, 0.4, 3.0)],
)
def test_equals_one_at_a_time(limits: ProposalLimits) -> None:
    logits, deltas, anchors = inputs()
    sizes = [(50, 60), (30, 45)]
    found = best_proposals(logits, deltas, anchors, sizes, limits)
    for image, size in enumerate(sizes):
        expected = slowly([one[image] for one in logits], [one[image] for one in deltas], anchors, size, limits)
        torch.testing.assert_close(found[image], torch.tensor(expected), rtol=1e-6, atol=1e-4)


def test_fixed_places() -> None:
    limits = ProposalLimits(30, 70, 0.2)
    loose = best_proposals(*inputs(), [(50, 60)] * 2, limits)
    fixed = best_proposals(*inputs(), [(50, 60)] * 2, limits, fixed=True)
    for few, all_places in zip(loose, fixed, strict=True):
        assert all_places.shape == (30 + 25 + 4, 4)
        assert 0 < few.shape[0] < 59
        assert torch.equal(all_places[: few.shape[0]], few)
        assert not all_places[few.shape[0] :].any()
    assert best_proposals(*inputs(), [(50, 60)] * 2, ProposalLimits(30, 9), fixed=True)[0].shape == (9, 4)


def test_not_finite_is_dropped() -> None:
    logits, deltas, anchors = inputs(1)
    logits[0][0, :5] = torch.tensor([torch.nan, torch.inf, -torch.inf, 50.0, 40.0])
    deltas[0][0, 3] = torch.nan
    deltas[0][0, 4] = 0
    anchors[0][4] = torch.tensor([10.0, 10.0, 20.0, 20.0])
    found = best_proposals(logits, deltas, anchors, [(50, 60)], ProposalLimits())[0]
    assert found.isfinite().all()
    assert found[0].tolist() == [10, 10, 20, 20]


def test_no_gradient_and_no_boxes() -> None:
    logits, deltas, anchors = inputs(1)
    for one in (*logits, *deltas):
        one.requires_grad_()
    assert not best_proposals(logits, deltas, anchors, [(50, 60)], ProposalLimits())[0].requires_grad
    outside = [one + 500 for one in anchors]
    assert best_proposals(logits, deltas, outside, [(50, 60)], ProposalLimits())[0].shape == (0, 4)
