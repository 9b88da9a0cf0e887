"""Plain torch, on any device, in the type of the inputs (float32 or float64)."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch

MAX_LOG_SCALE = log(1000 / 16)  # a box grows to at most 62.5 times its anchor


def decode(
    deltas: torch.Tensor, anchors: torch.Tensor, height: int, width: int, weights: Sequence[float], min_size: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `monai_ext.ops.decode_proposals.decode_proposals`."""
    boxes = decoded(deltas, anchors, weights)
    # an infinite scale is clamped, and would pass as a box
    finite = (boxes.isfinite() & deltas.isfinite()).all(1)
    x = boxes[:, 0::2].clamp(0, width)
    y = boxes[:, 1::2].clamp(0, height)
    boxes = torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)
    boxes = torch.where(finite[:, None], boxes, 0.0)
    large = (boxes[:, 2] - boxes[:, 0] > min_size) & (boxes[:, 3] - boxes[:, 1] > min_size)
    return boxes, finite & large


def decoded(deltas: torch.Tensor, anchors: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Boxes `[..., 4]` that deltas `[..., 4]` lead to, not clipped; differentiable. Anchors broadcast."""
    wx, wy, ww, wh = weights
    tx, ty, tw, th = deltas.unbind(-1)
    x0, y0, x1, y1 = anchors.unbind(-1)
    w, h = x1 - x0, y1 - y0
    x, y = tx / wx * w + (x0 + 0.5 * w), ty / wy * h + (y0 + 0.5 * h)
    half_w = 0.5 * torch.exp((tw / ww).clamp(max=MAX_LOG_SCALE)) * w
    half_h = 0.5 * torch.exp((th / wh).clamp(max=MAX_LOG_SCALE)) * h
    return torch.stack([x - half_w, y - half_h, x + half_w, y + half_h], dim=-1)
