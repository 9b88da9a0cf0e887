"""What the anchors of a training step should have said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from monai_ext.networks.mask_rcnn.sampler import BalancedSampler, keys_of_images
from monai_ext.networks.mask_rcnn.structures import Targets
from monai_ext.ops.match_anchors import IGNORED, NEGATIVE, match_anchors

CROWD_SHARE = 0.5  # of a box that lies in a crowd region: no example of background from here on


class AnchorTargets(NamedTuple):
    """Anchors drawn from every image of a batch, S from each.

    Attributes:
        anchors: `[B, S]` int64, number of the anchor within the image.
        labels: `[B, S]` int8, 1 positive, 0 negative, -1 for places that stayed empty.
        boxes: `[B, S, 4]` float32, of the objects of the positives; the anchors themselves elsewhere.
    """

    anchors: torch.Tensor
    labels: torch.Tensor
    boxes: torch.Tensor


@torch.no_grad()
def anchor_targets(
    anchors: torch.Tensor, targets: Sequence[Targets], sampler: BalancedSampler, high: float = 0.7, low: float = 0.3
) -> AnchorTargets:
    """Match the anchors of every image with its objects, and draw some (Ren et al. 2015); no host synchronisation.

    Args:
        anchors: `[A, 4]` float32 of an image, all levels.
        targets: of every image.
        sampler: how many are drawn; `Targets.draw` decides which, else torch's own generator.
        high, low: overlaps from which an anchor is positive, and below which it is negative.
    """
    matched, states = [], []
    for target in targets:
        best, state = match_anchors(target.boxes, anchors, high, low)
        matched.append(best)
        states.append(without_crowd(state, anchors, target.crowd))
    keys = keys_of_images([target.draw for target in targets], [len(anchors)] * len(targets), 0, anchors.device)
    drawn, labels = sampler.batch(torch.stack(states), keys)
    boxes = of_objects([target.boxes for target in targets], torch.stack(matched).gather(1, drawn))
    return AnchorTargets(drawn, labels, torch.where((labels == 1)[:, :, None], boxes, anchors[drawn]))


def of_objects(values: Sequence[torch.Tensor], objects: torch.Tensor) -> torch.Tensor:
    """What belongs to objects: `[B, S, ...]` from `[G_i, ...]` of every image and numbers `[B, S]` within each.

    Anything where an image has no objects.
    """
    counts = [one.shape[0] for one in values]
    first = torch.tensor([0, *counts[:-1]]).cumsum(0).to(objects.device, non_blocking=True)
    table = torch.cat([*values, values[0].new_zeros((1, *values[0].shape[1:]))])
    return table[objects + first[:, None]]


def without_crowd(states: torch.Tensor, boxes: torch.Tensor, crowd: torch.Tensor) -> torch.Tensor:
    """States with the negatives of boxes `[A, 4]` of which a half or more lies in one crowd region `[Z, 4]` ignored.

    Positives stay: a region may cover the whole image, and objects in it that are told apart are objects.
    """
    if not crowd.shape[0]:
        return states
    x0, y0, x1, y1 = boxes.unbind(1)
    largest = torch.zeros_like(x0)
    for left, top, right, bottom in crowd[:, :, None].unbind(0):
        width = (torch.minimum(x1, right) - torch.maximum(x0, left)).clamp_min_(0)
        height = (torch.minimum(y1, bottom) - torch.maximum(y0, top)).clamp_min_(0)
        largest = torch.maximum(largest, width * height)
    is_inside = (largest >= CROWD_SHARE * (x1 - x0) * (y1 - y0)) & (largest > 0)
    return torch.where(is_inside & (states == NEGATIVE), IGNORED, states)
