"""Triton form: one pass, float32; float64 goes to the reference."""
# ruff: noqa: N803 - kernels name sizes as shapes are written

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from monai_ext.ops.decode_proposals import reference

BLOCK = 256
LARGEST = torch.finfo(torch.float32).max


@triton.jit
def _within(value, high):
    return tl.minimum(tl.maximum(value, 0.0), high)


@triton.jit(do_not_specialize=["count"])
def _decode(deltas, anchors, boxes, valid, count, height, width, wx, wy, ww, wh, min_size,
            MAX_LOG_SCALE: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    k = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = k < count
    tx, ty = tl.load(deltas + 4 * k, mask=mask, other=0.0), tl.load(deltas + 4 * k + 1, mask=mask, other=0.0)
    tw, th = tl.load(deltas + 4 * k + 2, mask=mask, other=0.0), tl.load(deltas + 4 * k + 3, mask=mask, other=0.0)
    xa, ya = tl.load(anchors + 4 * k, mask=mask, other=0.0), tl.load(anchors + 4 * k + 1, mask=mask, other=0.0)
    wa = tl.load(anchors + 4 * k + 2, mask=mask, other=0.0) - xa
    ha = tl.load(anchors + 4 * k + 3, mask=mask, other=0.0) - ya
    x, y = tx / wx * wa + (xa + 0.5 * wa), ty / wy * ha + (ya + 0.5 * ha)
    half_w = 0.5 * tl.exp(tl.minimum(tw / ww, MAX_LOG_SCALE)) * wa
    half_h = 0.5 * tl.exp(tl.minimum(th / wh, MAX_LOG_SCALE)) * ha
    x0, y0, x1, y1 = x - half_w, y - half_h, x + half_w, y + half_h
    finite = (tl.abs(x0) <= LARGEST) & (tl.abs(y0) <= LARGEST) & (tl.abs(x1) <= LARGEST) & (tl.abs(y1) <= LARGEST)
    finite = finite & (tl.abs(tw) <= LARGEST) & (tl.abs(th) <= LARGEST)
    x0, y0 = tl.where(finite, _within(x0, width), 0.0), tl.where(finite, _within(y0, height), 0.0)
    x1, y1 = tl.where(finite, _within(x1, width), 0.0), tl.where(finite, _within(y1, height), 0.0)
    tl.store(boxes + 4 * k, x0, mask=mask)
    tl.store(boxes + 4 * k + 1, y0, mask=mask)
    tl.store(boxes + 4 * k + 2, x1, mask=mask)
    tl.store(boxes + 4 * k + 3, y1, mask=mask)
    large = (x1 - x0 > min_size) & (y1 - y0 > min_size)
    tl.store(valid + k, (finite & large).to(tl.uint8), mask=mask)


def decode(
    deltas: torch.Tensor, anchors: torch.Tensor, height: int, width: int, weights: Sequence[float], min_size: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `monai_ext.ops.decode_proposals.decode_proposals`; contiguous inputs of one type."""
    if deltas.dtype != torch.float32:
        return reference.decode(deltas, anchors, height, width, weights, min_size)
    count = deltas.shape[0]
    boxes, valid = torch.empty_like(deltas), torch.empty(count, dtype=torch.uint8, device=deltas.device)
    _decode[(triton.cdiv(count, BLOCK),)](
        *(deltas, anchors, boxes, valid, count, float(height), float(width), *weights, min_size),
        MAX_LOG_SCALE=reference.MAX_LOG_SCALE,
        LARGEST=LARGEST,
        BLOCK=BLOCK,
    )
    return boxes, valid.view(torch.bool)
