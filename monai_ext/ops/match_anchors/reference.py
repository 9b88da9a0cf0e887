"""Plain torch: IoU of as many anchors at a time as fit into the cache; again for the rescue where it may matter."""

from __future__ import annotations

import torch

VALUES = 1 << 16  # of the IoU of one chunk


def match(
    gt: torch.Tensor, anchors: torch.Tensor, high: float, low: float, rescue: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `monai_ext.ops.match_anchors.match_anchors`; float32 boxes, at least one of each."""
    matched = anchors.new_empty(anchors.shape[0], dtype=torch.int64)
    states = anchors.new_empty(anchors.shape[0], dtype=torch.int8)
    chunks = range(0, anchors.shape[0], max(VALUES // gt.shape[0], 1))
    largest = gt.new_zeros(len(chunks), gt.shape[0])
    for number, first in enumerate(chunks):
        part = slice(first, first + chunks.step)
        values = iou(gt, anchors[part])
        best, matched[part] = values.max(0)
        states[part] = states_of(best, high, low)
        largest[number] = values.max(1).values
    if rescue:
        top = largest.max(0).values
        claimed = (largest == top) & (top > 0)
        for number in claimed.any(1).nonzero()[:, 0].tolist():
            part = slice(chunks[number], chunks[number] + chunks.step)
            objects = claimed[number]
            rescued = is_rescued(iou(gt[objects], anchors[part]), top[objects])
            states[part] = torch.where(rescued, 1, states[part])
    return matched, states


def iou(gt: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """Intersection over union `[G, A]`; 0 instead of NaN."""
    gx0, gy0, gx1, gy1 = gt.t()[..., None].unbind(0)
    # edges side by side in memory take half the time
    x0, y0, x1, y1 = anchors.t().contiguous().unbind(0)
    areas = (gx1 - gx0) * (gy1 - gy0) + (x1 - x0) * (y1 - y0)
    w = (torch.minimum(gx1, x1) - torch.maximum(gx0, x0)).clamp_min_(0)
    h = (torch.minimum(gy1, y1) - torch.maximum(gy0, y0)).clamp_min_(0)
    shared = w.mul_(h)
    value = shared / (areas - shared)
    return torch.where(value > 0, value, 0.0)


def states_of(best: torch.Tensor, high: float, low: float) -> torch.Tensor:
    """States `[A]` int8 by the best IoU `[A]` of every anchor."""
    return torch.where(best >= high, 1, torch.where(best < low, 0, -1)).to(torch.int8)


def is_rescued(values: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """Which anchors `[A]` reach the largest IoU `top [G]` of an object, from IoU `[G, A]`."""
    return ((values == top[:, None]) & (top[:, None] > 0)).any(0)
