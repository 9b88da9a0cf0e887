"""Triton form: tiles of objects times anchors in registers; nothing of them is written but maxima.

The largest IoU of an object is found by atomic maxima of the bits, which are in order like the numbers, since none is
negative: whatever the order of the programs, the result is the same.
"""
# ruff: noqa: N803 - kernels name sizes as shapes are written

from __future__ import annotations

import torch
import triton
import triton.language as tl

ANCHORS, OBJECTS = 128, 8  # of a tile


@triton.jit
def _iou(gt, i, G, x0, y0, x1, y1, area):
    """`[OBJECTS, ANCHORS]` of objects `i [OBJECTS, 1]` with anchors `[1, ANCHORS]`; 0 instead of NaN."""
    valid = i < G
    gx0, gy0 = tl.load(gt + 4 * i, mask=valid, other=0.0), tl.load(gt + 4 * i + 1, mask=valid, other=0.0)
    gx1, gy1 = tl.load(gt + 4 * i + 2, mask=valid, other=0.0), tl.load(gt + 4 * i + 3, mask=valid, other=0.0)
    w = tl.maximum(tl.minimum(x1, gx1) - tl.maximum(x0, gx0), 0.0)
    h = tl.maximum(tl.minimum(y1, gy1) - tl.maximum(y0, gy0), 0.0)
    shared = w * h
    union = (gx1 - gx0) * (gy1 - gy0) + area - shared
    # rounded as on processors; what is not positive is not divided
    value = tl.div_rn(shared, tl.where(union > 0, union, 1.0))
    return tl.where((value > 0) & (union > 0), value, 0.0)


@triton.jit
def _boxes(anchors, j, A):
    """Edges and area of anchors `j [1, ANCHORS]`."""
    base, valid = anchors + 4 * j.to(tl.int64), j < A
    x0, y0 = tl.load(base, mask=valid, other=0.0), tl.load(base + 1, mask=valid, other=0.0)
    x1, y1 = tl.load(base + 2, mask=valid, other=0.0), tl.load(base + 3, mask=valid, other=0.0)
    return x0, y0, x1, y1, (x1 - x0) * (y1 - y0)


@triton.jit(do_not_specialize=["G", "A"])
def _best(gt, anchors, top, matched, states, G, A, high, low, RESCUE: tl.constexpr, ANCHORS: tl.constexpr,
          OBJECTS: tl.constexpr):  # fmt: skip
    j = tl.program_id(0) * ANCHORS + tl.arange(0, ANCHORS)
    x0, y0, x1, y1, area = _boxes(anchors, j[None, :], A)
    best = tl.zeros((ANCHORS,), tl.float32)
    index = tl.zeros((ANCHORS,), tl.int32)
    for first in range(0, G, OBJECTS):
        i = first + tl.arange(0, OBJECTS)
        values = _iou(gt, i[:, None], G, x0, y0, x1, y1, area)
        value = tl.max(values, 0)
        # the first of equal ones
        object = tl.min(tl.where(values == value[None, :], i[:, None], G), 0)
        index = tl.where(value > best, object, index)
        best = tl.maximum(value, best)
        if RESCUE:
            largest = tl.max(values, 1)
            tl.atomic_max(top + i, largest.to(tl.int32, bitcast=True), mask=(i < G) & (largest > 0), sem="relaxed")
    state = tl.where(best >= high, 1, tl.where(best < low, 0, -1))
    tl.store(matched + j, index.to(tl.int64), mask=j < A)
    tl.store(states + j, state.to(tl.int8), mask=j < A)


@triton.jit(do_not_specialize=["G", "A"])
def _rescue(gt, anchors, top, states, G, A, ANCHORS: tl.constexpr, OBJECTS: tl.constexpr):
    j = tl.program_id(0) * ANCHORS + tl.arange(0, ANCHORS)
    x0, y0, x1, y1, area = _boxes(anchors, j[None, :], A)
    found = tl.zeros((ANCHORS,), tl.int32)
    for first in range(0, G, OBJECTS):
        i = first + tl.arange(0, OBJECTS)[:, None]
        values = _iou(gt, i, G, x0, y0, x1, y1, area)
        largest = tl.load(top + i, mask=i < G, other=0.0)
        found = tl.maximum(found, tl.max(((values == largest) & (values > 0)).to(tl.int32), 0))
    tl.store(states + j, (found * 0 + 1).to(tl.int8), mask=(j < A) & (found > 0))


def match(
    gt: torch.Tensor, anchors: torch.Tensor, high: float, low: float, rescue: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `monai_ext.ops.match_anchors.match_anchors`; contiguous float32 boxes, at least one of each."""
    count = anchors.shape[0]
    matched = torch.empty(count, dtype=torch.int64, device=anchors.device)
    states = torch.empty(count, dtype=torch.int8, device=anchors.device)
    top = torch.zeros(gt.shape[0], dtype=torch.int32, device=anchors.device)
    grid = (triton.cdiv(count, ANCHORS),)
    # a product fused into a sum rounds otherwise than the other forms do, and ties would not be ties
    sizes = {"ANCHORS": ANCHORS, "OBJECTS": OBJECTS, "enable_fp_fusion": False}
    _best[grid](gt, anchors, top, matched, states, gt.shape[0], count, high, low, RESCUE=rescue, **sizes)
    if rescue:
        _rescue[grid](gt, anchors, top.view(torch.float32), states, gt.shape[0], count, **sizes)
    return matched, states
