"""What the heads should have said about the regions of a training step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812

from monai_ext.networks.mask_rcnn.anchor_targets import of_objects, without_crowd
from monai_ext.networks.mask_rcnn.region_pool import as_rois
from monai_ext.networks.mask_rcnn.sampler import BalancedSampler, keys_of_images
from monai_ext.networks.mask_rcnn.structures import Targets
from monai_ext.ops.match_anchors import IGNORED, match_anchors


class RegionTargets(NamedTuple):
    """Regions drawn from every image of a batch, R in all.

    Attributes:
        rois: `[R, 5]` float32, image and box.
        labels: `[R]` int64, class of the object; 0 is background, -1 a place that stayed empty.
        boxes: `[R, 4]` float32, of the objects of the positives; the regions themselves elsewhere.
        ids: `[R]` int32, of these objects in the label map of their image; 0 elsewhere.
    """

    rois: torch.Tensor
    labels: torch.Tensor
    boxes: torch.Tensor
    ids: torch.Tensor


@torch.no_grad()
def region_targets(
    proposals: Sequence[torch.Tensor], targets: Sequence[Targets], sampler: BalancedSampler, threshold: float = 0.5
) -> RegionTargets:
    """Match proposals and the objects' own boxes with the objects, and draw some (Girshick 2015).

    No host synchronisation.

    Args:
        proposals: `[P_i, 4]` float32 of every image; those without area are left out.
        targets: of every image.
        sampler: how many are drawn; `Targets.draw` decides which, else torch's own generator.
        threshold: overlap from which a region is positive, below it is negative.
    """
    # boxes of objects too: an untrained network proposes nothing that overlaps them
    candidates = [torch.cat([target.boxes, one]) for one, target in zip(proposals, targets, strict=True)]
    counts = [one.shape[0] for one in candidates]
    most = max(counts)
    regions = torch.stack([F.pad(one, (0, 0, 0, most - one.shape[0])) for one in candidates])
    matched, states = [], []
    for target, boxes in zip(targets, regions, strict=True):
        best, state = match_anchors(target.boxes, boxes, threshold, threshold, rescue=False)
        matched.append(best)
        states.append(without_crowd(state, boxes, target.crowd))
    has_area = (regions[:, :, 2:] > regions[:, :, :2]).all(2)
    keys = keys_of_images([target.draw for target in targets], counts, 1, regions.device)
    drawn, kinds = sampler.batch(torch.where(has_area, torch.stack(states), IGNORED), keys)
    boxes = regions.gather(1, drawn[:, :, None].expand(-1, -1, 4))
    objects, is_positive = torch.stack(matched).gather(1, drawn), kinds == 1
    labels = torch.where(is_positive, of_objects([target.labels for target in targets], objects), kinds.long())
    wanted = torch.where(is_positive[:, :, None], of_objects([target.boxes for target in targets], objects), boxes)
    ids = torch.where(is_positive, of_objects([target.ids for target in targets], objects), 0)
    return RegionTargets(as_rois(list(boxes)), labels.flatten(), wanted.flatten(0, 1), ids.flatten())


def first_of_each(images: torch.Tensor, count: int, most: int) -> torch.Tensor:
    """Which of some regions are among the first `most` of their image; regions come in the order they were drawn.

    Args:
        images: `[R]` number of the image of each region, ascending.
        count: of images.
        most: regions of an image.

    Returns:
        `[R]` bool.
    """
    places = torch.arange(images.numel(), device=images.device)
    first = torch.searchsorted(images, torch.arange(count, device=images.device, dtype=images.dtype))
    return places - first[images.long()] < most
