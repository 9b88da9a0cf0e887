"""Greedy non-maximum suppression of boxes, alone or per group, in order of the scores.

A box is dropped if it overlaps one that is kept, belongs to the same group and has a higher score, by an intersection
over union above a threshold (Felzenszwalb et al., TPAMI 2010; Girshick et al., CVPR 2014).
"""

from __future__ import annotations

import math
from typing import Optional

import torch

from monai_ext.ops import forms

NAME = "nms"


def nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Which boxes are kept.

    On CUDA the host waits once, for the size of the result; `nms_mask` never waits.

    Args:
        boxes: `[N, 4]` (x0, y0, x1, y1) in pixel edges, floating; computed in float32 (float64 stays). A box without
            area, with edges in the wrong order or with a NaN neither suppresses nor is suppressed.
        scores: `[N]` floating, on the same device. Equal ones keep the order of the input, NaN comes last.
        threshold: from 0 to 1; a larger intersection over union suppresses, an equal one does not.

    Returns:
        `[K]` int64, positions of the kept boxes by descending score. No gradient.

    Raises:
        ValueError: shapes, types or devices do not fit, or the threshold is not from 0 to 1.
    """
    _check(boxes, scores, threshold, None)
    order = score_order(scores)
    return order[_kept(boxes, order, threshold, None)]


def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, threshold: float) -> torch.Tensor:
    """As `nms`, where only boxes of the same group (class, level, image) suppress each other.

    Args:
        boxes: `[N, 4]`, as in `nms`.
        scores: `[N]`, as in `nms`.
        groups: `[N]` int64, any numbers.
        threshold: as in `nms`.

    Returns:
        `[K]` int64, positions of the kept boxes of all groups by descending score.

    Raises:
        ValueError: as `nms`.
    """
    _check(boxes, scores, threshold, groups)
    order = score_order(scores)
    return order[_kept(boxes, order, threshold, groups)]


def nms_mask(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    threshold: float,
    groups: Optional[torch.Tensor] = None,  # noqa: UP045
) -> torch.Tensor:
    """Whether each box is kept, the best score first; a fixed shape, so that CUDA need not be waited for.

    Args:
        boxes, scores, threshold: as in `nms`.
        groups: `[N]` int64 as in `batched_nms`; None for one group.

    Returns:
        `[N]` bool in the order of `score_order(scores)`: entry k is about box `score_order(scores)[k]`.

    Raises:
        ValueError: as `nms`.
    """
    _check(boxes, scores, threshold, groups)
    return _kept(boxes, score_order(scores), threshold, groups)


def score_order(scores: torch.Tensor) -> torch.Tensor:
    """Positions `[N]` int64 by descending score `[N]`; equal ones as they come, NaN last."""
    # ascending order is the one that puts NaN last
    return torch.argsort(-scores.detach(), stable=True)


# the number of boxes kept is not known when a graph is made
nms.not_compiled = True  # type: ignore[attr-defined]
batched_nms.not_compiled = True  # type: ignore[attr-defined]


def _kept(boxes: torch.Tensor, order: torch.Tensor, threshold: float, groups: torch.Tensor | None) -> torch.Tensor:
    boxes = boxes.detach()
    if boxes.dtype != torch.float64:
        boxes, threshold = boxes.float(), _rounded_up(threshold)
    if groups is None:
        return _suppress(boxes[order], None, threshold)
    groups, together = torch.sort(groups[order], stable=True)
    kept = _suppress(boxes[order[together]], groups, threshold)
    return torch.zeros_like(kept).scatter_(0, together, kept)


def _rounded_up(threshold: float) -> float:
    """The smallest float32 that is not below: so a box whose overlap is exactly the threshold is never suppressed."""
    if not threshold:
        return 0.0
    bits = 24 - math.frexp(threshold)[1]
    return math.ldexp(math.ceil(math.ldexp(threshold, bits)), -bits)


def _check(boxes: torch.Tensor, scores: torch.Tensor, threshold: float, groups: torch.Tensor | None) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(f"boxes must be floating [N, 4] (x0, y0, x1, y1), got {tuple(boxes.shape)} {boxes.dtype}")
    count, device = boxes.shape[0], boxes.device
    if scores.shape != (count,) or not scores.is_floating_point() or scores.device != device:
        raise ValueError(
            f"scores must be floating [{count}] on {device}, one a box, "
            f"got {tuple(scores.shape)} {scores.dtype} on {scores.device}"
        )
    if groups is not None and (groups.shape != (count,) or groups.dtype != torch.int64 or groups.device != device):
        raise ValueError(
            f"groups must be int64 [{count}] on {device}, one a box, "
            f"got {tuple(groups.shape)} {groups.dtype} on {groups.device}"
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be from 0 to 1, got {threshold}")


@torch.library.custom_op("monai_ext::nms", mutates_args=())
def _suppress(boxes: torch.Tensor, groups: Optional[torch.Tensor], threshold: float) -> torch.Tensor:  # noqa: UP045
    """Which boxes `[N, 4]` are kept, `[N]` bool; they come by group (ascending), then by descending score."""
    if boxes.shape[0] == 0:
        return boxes.new_empty(0, dtype=torch.bool)
    with forms.on_device_of(boxes):
        return forms.implementation(NAME, boxes.device).suppress(boxes.contiguous(), groups, threshold)


@_suppress.register_fake
def _(boxes: torch.Tensor, groups: torch.Tensor | None, threshold: float) -> torch.Tensor:
    return boxes.new_empty(boxes.shape[0], dtype=torch.bool)
