"""Detections from what the box head says about proposals."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from monai_ext.networks.mask_rcnn.box_coder import HEAD_WEIGHTS
from monai_ext.ops.decode_proposals import decode_proposals
from monai_ext.ops.nms import batched_nms


@dataclass(frozen=True)
class DetectionLimits:
    """Which detections of an image are kept.

    Attributes:
        score: smallest one.
        nms: overlap above which the weaker one of a class is suppressed.
        count: the best of all classes.
    """

    score: float = 0.05
    nms: float = 0.5
    count: int = 500


@torch.no_grad()
def box_detections(
    logits: torch.Tensor,
    deltas: torch.Tensor,
    proposals: torch.Tensor,
    size: tuple[int, int],
    limits: DetectionLimits,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes, scores and labels of an image.

    Only what reaches the score is decoded; scores are compared within a class, and suppressed within it.

    Args:
        logits: `[R, K + 1]`, background first.
        deltas: `[R, K, 4]`.
        proposals: `[R, 4]`.
        size: height and width of the image without its padding.
        limits: see there.

    Returns:
        `[D, 4]` float32, `[D]` float32 by descending score, `[D]` int64 from 1.
    """
    all_scores = logits.float().softmax(1)[:, 1:]
    region, label = (all_scores >= limits.score).nonzero().unbind(1)
    scores = all_scores[region, label]
    boxes, is_valid = decode_proposals(deltas[region, label].float(), proposals[region], size, HEAD_WEIGHTS)
    valid = is_valid.nonzero()[:, 0]
    boxes, scores, label = boxes[valid], scores[valid], label[valid]
    kept = batched_nms(boxes, scores, label, limits.nms)[: limits.count]
    return boxes[kept], scores[kept], label[kept] + 1
