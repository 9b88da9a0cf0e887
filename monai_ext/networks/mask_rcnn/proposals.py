"""Proposals: the best boxes of a region proposal network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from monai_ext.networks.mask_rcnn.box_coder import RPN_WEIGHTS
from monai_ext.ops.decode_proposals import decode_proposals
from monai_ext.ops.nms import nms_mask, score_order


@dataclass(frozen=True)
class ProposalLimits:
    """How many proposals are looked at and kept.

    Attributes:
        pre_nms: best ones of every level of an image.
        post_nms: best ones of an image after suppression.
        nms: overlap above which the weaker one of a level is suppressed.
        min_size: sides are longer, pixels.
    """

    pre_nms: int = 2000
    post_nms: int = 1000
    nms: float = 0.7
    min_size: float = 0.0


@torch.no_grad()
def best_proposals(
    logits: Sequence[torch.Tensor],
    deltas: Sequence[torch.Tensor],
    anchors: Sequence[torch.Tensor],
    sizes: Sequence[tuple[int, int]],
    limits: ProposalLimits,
    fixed: bool = False,
) -> list[torch.Tensor]:
    """Boxes of every image, without a gradient.

    Only the `pre_nms` best anchors of a level are decoded; suppression is within a level, the order over all. Boxes
    that are not finite or have no area within the image are dropped.

    Args:
        logits: `[B, A_l]` per level.
        deltas: `[B, A_l, 4]` per level.
        anchors: `[A_l, 4]` float32 per level.
        sizes: height and width of each image without its padding.
        limits: see there.
        fixed: P is as large as it may be, and boxes that are missing are zeros; else the host waits once per image on
            CUDA, to know how many there are.

    Returns:
        one `[P, 4]` float32 per image, by descending logit, P at most `post_nms`.
    """
    device = logits[0].device
    scores, moved, starts, groups = [], [], [], []
    for level, (values, differences, boxes) in enumerate(zip(logits, deltas, anchors, strict=True)):
        count = min(limits.pre_nms, values.shape[1])
        best, index = values.float().topk(count, dim=1)
        scores.append(best)
        moved.append(differences.gather(1, index[:, :, None].expand(-1, -1, 4)).float())
        starts.append(boxes[index])
        groups.append(torch.full((count,), level, dtype=torch.int64, device=device))
    all_scores, all_deltas, all_anchors = torch.cat(scores, 1), torch.cat(moved, 1), torch.cat(starts, 1)
    levels = torch.cat(groups)
    return [
        _best_of_image(all_scores[image], all_deltas[image], all_anchors[image], size, levels, limits, fixed)
        for image, size in enumerate(sizes)
    ]


def _best_of_image(
    scores: torch.Tensor,
    deltas: torch.Tensor,
    anchors: torch.Tensor,
    size: tuple[int, int],
    levels: torch.Tensor,
    limits: ProposalLimits,
    fixed: bool,
) -> torch.Tensor:
    boxes, is_valid = decode_proposals(deltas, anchors, size, RPN_WEIGHTS, limits.min_size)
    # boxes that are not valid suppress nothing, since they have no area
    boxes = torch.where(is_valid[:, None], boxes, 0.0)
    order = score_order(scores)
    is_kept = nms_mask(boxes, scores, limits.nms, levels) & is_valid[order] & scores.isfinite()[order]
    if fixed:
        first = (~is_kept).sort(stable=True).indices[: limits.post_nms]
        return torch.where(is_kept[first][:, None], boxes[order[first]], 0.0)
    return boxes[order[is_kept.nonzero()[: limits.post_nms, 0]]]
