"""Boxes as differences from other boxes, which is what the heads of a detector predict."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.ops.decode_proposals.reference import MAX_LOG_SCALE, decoded

__all__ = ["HEAD_WEIGHTS", "MAX_LOG_SCALE", "RPN_WEIGHTS", "decode", "encode"]

RPN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
HEAD_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def encode(boxes: torch.Tensor, anchors: torch.Tensor, weights: Sequence[float] = RPN_WEIGHTS) -> torch.Tensor:
    """Deltas that lead from anchors to boxes (Girshick et al. 2014): shift in sides of the anchor, log of the scale.

    `tx = wx (x - xa) / wa` and `tw = ww log(w / wa)`, with x the centre and w the width; y and h alike.

    Args:
        boxes, anchors: `[..., 4]` that broadcast, sides above 0; half precision is computed in float32.
        weights: wx, wy, ww, wh.

    Returns:
        `[..., 4]` float32 (float64 for float64).

    Raises:
        ValueError: the last axis does not hold 4 numbers, or there are not 4 positive weights.
    """
    wx, wy, ww, wh = _checked(weights, boxes, anchors)
    x, y, w, h = _centred(_wide(boxes))
    xa, ya, wa, ha = _centred(_wide(anchors))
    return torch.stack([wx * (x - xa) / wa, wy * (y - ya) / ha, ww * torch.log(w / wa), wh * torch.log(h / ha)], dim=-1)


def decode(deltas: torch.Tensor, anchors: torch.Tensor, weights: Sequence[float] = RPN_WEIGHTS) -> torch.Tensor:
    """Boxes that deltas lead to, the inverse of `encode`; differentiable, not clipped to an image.

    The logarithms of the scales are clamped to log(1000 / 16), so that a wild prediction does not overflow.

    Args:
        deltas: `[..., 4]`; for one box per class `[R, K, 4]` with anchors `[R, 1, 4]`.
        anchors: `[..., 4]` that broadcast with the deltas.
        weights: those of `encode`.

    Returns:
        `[..., 4]` float32 (float64 for float64).

    Raises:
        ValueError: as `encode`.
    """
    return decoded(_wide(deltas), _wide(anchors), _checked(weights, deltas, anchors))


def _checked(weights: Sequence[float], *tensors: torch.Tensor) -> Sequence[float]:
    if len(weights) != 4 or min(weights) <= 0:
        raise ValueError(f"box coding needs 4 positive weights, got {list(weights)}")
    for tensor in tensors:
        if tensor.ndim == 0 or tensor.shape[-1] != 4:
            raise ValueError(f"boxes and deltas must be [..., 4], got {tuple(tensor.shape)}")
    return weights


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _centred(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Centre, width and height."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    w, h = x1 - x0, y1 - y0
    return x0 + 0.5 * w, y0 + 0.5 * h, w, h
