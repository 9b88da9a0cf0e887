"""Detections of an image and its mirror images as one: the mean of scores, boxes and masks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch

from monai_ext.inferers.detection_merging import by_score, concatenated, resampled, select
from monai_ext.networks.mask_rcnn.structures import Detections

SAME_OBJECT = 0.5  # intersection over union of boxes


def flips(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Spatial axes (0 is y) that each view turns round; the first turns none."""
    return [view for n in range(len(axes) + 1) for view in combinations(axes, n)]


def flipped_back(detections: Detections, view: Sequence[int], height: int, width: int) -> Detections:
    """Detections of a mirrored image `height` x `width` as they lie in the image itself."""
    boxes, masks = detections.boxes, detections.masks
    if 0 in view:
        boxes = torch.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], 1)
    if 1 in view:
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    return detections._replace(boxes=boxes, masks=masks.flip([axis + 1 for axis in view]) if view else masks)


def fuse_views(views: Sequence[Detections], limit: int = 0) -> Detections:
    """One set of detections out of several of the same image.

    The strongest detection left takes with it, of each other view, the one of its class that overlaps it most, by 0.5
    or more of the union of the boxes. Box and mask are their mean, weighted by score; the score is the sum divided by
    the number of views, so that what only one view sees counts little.

    Args:
        views: on the processor, in the same pixels.
        limit: most detections that are kept; 0 keeps all.
    """
    if len(views) == 1:
        return views[0]
    found = concatenated(views)
    view = torch.repeat_interleave(torch.arange(len(views)), torch.tensor([len(v.scores) for v in views]))
    order = torch.argsort(found.scores, descending=True, stable=True)
    found, view = select(found, order), view[order]
    owners, seeds = _groups(found, view.tolist())
    if not seeds:
        return found
    owner, weights = torch.tensor(owners), found.scores.clamp_min(1e-6)
    total = torch.zeros(len(seeds)).index_add_(0, owner, weights)
    boxes = torch.zeros(len(seeds), 4).index_add_(0, owner, found.boxes * weights[:, None]) / total[:, None]
    onto = resampled(found.masks, found.boxes, boxes[owner]) * weights[:, None, None]
    masks = torch.zeros(len(seeds), *found.masks.shape[1:]).index_add_(0, owner, onto) / total[:, None, None]
    scores = torch.zeros(len(seeds)).index_add_(0, owner, found.scores) / len(views)
    fused = by_score(Detections(boxes, scores, found.labels[torch.tensor(seeds)], masks))
    return Detections(*(tensor[:limit] for tensor in fused)) if limit else fused


def _groups(found: Detections, view: Sequence[int]) -> tuple[list[int], list[int]]:
    """Number of the object that each detection belongs to, and the strongest detection of every object.

    Args:
        found: of all views, by descending score.
        view: of each detection.
    """
    (x0, y0, x1, y1), labels = np.ascontiguousarray(found.boxes.numpy().T), found.labels.numpy()
    areas = np.maximum(x1 - x0, 0) * np.maximum(y1 - y0, 0)
    owners, seeds = [-1] * len(view), list[int]()
    for seed in range(len(view)):
        if owners[seed] >= 0:
            continue
        owners[seed], taken = len(seeds), {view[seed]}
        # rows of strong detections only: all pairs of thousands of boxes would take longer than a network on a GPU
        width = np.maximum(np.minimum(x1, x1[seed]) - np.maximum(x0, x0[seed]), 0)
        shared = width * np.maximum(np.minimum(y1, y1[seed]) - np.maximum(y0, y0[seed]), 0)
        union = np.maximum(areas + areas[seed] - shared, np.float32(1e-6))
        near = np.flatnonzero((shared >= SAME_OBJECT * union) & (labels == labels[seed]))
        for other in near[np.argsort(-(shared / union)[near], kind="stable")].tolist():  # the largest overlap first
            if owners[other] < 0 and view[other] not in taken:
                owners[other] = len(seeds)
                taken.add(view[other])
        seeds.append(seed)
    return owners, seeds
