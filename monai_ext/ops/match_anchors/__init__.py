"""Which anchor stands for which object, without a matrix of objects times anchors.

Matching of Faster R-CNN (Ren et al. 2015) in the manner of Detectron: two thresholds, and a rescue of objects whose
best anchor is below the upper one.
"""

from __future__ import annotations

import torch

from monai_ext.ops import forms

NAME = "match_anchors"
POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def match_anchors(
    gt: torch.Tensor, anchors: torch.Tensor, high: float, low: float, rescue: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best object of every anchor, and whether the anchor is positive, negative or ignored.

    An anchor is positive where the IoU with its best object is at least `high`, negative where it is below `low`, else
    ignored. With `rescue`, all anchors that reach the largest IoU of some object (ties included, above 0) are positive
    too; they keep their own best object, which may be another one. IoU is computed in float32 in the same steps by all
    forms, so that ties are ties everywhere.

    Args:
        gt: boxes of the objects `[G, 4]` (x0, y0, x1, y1), floating; G may be 0, then all anchors are negative.
        anchors: `[A, 4]` on the same device. Boxes that are inverted, empty or not finite overlap nothing.
        high: from here on positive; `low` = `high` leaves nothing ignored.
        low: below this negative.
        rescue: whether objects claim their best anchors.

    Returns:
        `[A]` int64, index of the object (the first of equal ones; 0 where there is no overlap or no object), and `[A]`
        int8: 1 positive, 0 negative, -1 ignored. No gradient.

    Raises:
        ValueError: shapes, types, devices or thresholds do not fit.
    """
    for name, boxes in (("gt", gt), ("anchors", anchors)):
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
            raise ValueError(f"{name} must be floating [N, 4], got {tuple(boxes.shape)} {boxes.dtype}")
    if gt.device != anchors.device:
        raise ValueError(f"gt is on {gt.device}, anchors on {anchors.device}: they must be on one device")
    if not 0 <= low <= high <= 1:
        raise ValueError(f"thresholds must be 0 <= low <= high <= 1, got low {low}, high {high}")
    return _match(gt.detach().float(), anchors.detach().float(), high, low, rescue)


@torch.library.custom_op("monai_ext::match_anchors", mutates_args=())
def _match(
    gt: torch.Tensor, anchors: torch.Tensor, high: float, low: float, rescue: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    gt, anchors = gt.contiguous(), anchors.contiguous()
    if gt.shape[0] == 0 or anchors.shape[0] == 0:
        count = anchors.shape[0]
        return anchors.new_zeros(count, dtype=torch.int64), anchors.new_zeros(count, dtype=torch.int8)
    with forms.on_device_of(anchors):
        return forms.implementation(NAME, anchors.device).match(gt, anchors, high, low, rescue)


@_match.register_fake
def _(
    gt: torch.Tensor, anchors: torch.Tensor, high: float, low: float, rescue: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    count = anchors.shape[0]
    return anchors.new_empty(count, dtype=torch.int64), anchors.new_empty(count, dtype=torch.int8)
