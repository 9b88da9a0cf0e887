"""Triton form: a program owns a tile of the image and goes through all masks in order, skipping those elsewhere."""
# ruff: noqa: N803 - kernels name sizes as shapes are written

from __future__ import annotations

import torch
import triton
import triton.language as tl

from monai_ext.ops.paste_masks import reference
from monai_ext.ops.paste_masks.reference import paste_mask as paste_mask  # its window's size is known on the host

TILE = 32  # objects are often no larger; rows and columns of a tile


@triton.jit
def _place(pixel, low, high, CELLS):
    """Index of the cell before a pixel's centre, at least -1, and the fraction of the way to the next."""
    where = (pixel.to(tl.float64) + 0.5 - low) / (high - low) * CELLS - 0.5
    where = tl.minimum(tl.maximum(where, -1.0), CELLS * 1.0)
    before = tl.minimum(tl.floor(where), CELLS - 1.0)
    return before.to(tl.int32), (where - before).to(tl.float32)


@triton.jit
def _cells(mask, row, column, P, Q):
    """Values at rows and columns of a mask, 0 outside."""
    within = ((row >= 0) & (row < P))[:, None] & ((column >= 0) & (column < Q))[None, :]
    return tl.load(mask + row[:, None] * Q + column[None, :], mask=within, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["R", "H", "W"])
def _paint(masks, boxes, windows, labels, R, H, W, P, Q, threshold, TILE: tl.constexpr):
    top, left = tl.program_id(1) * TILE, tl.program_id(0) * TILE
    y, x = top + tl.arange(0, TILE), left + tl.arange(0, TILE)
    label = tl.zeros((TILE, TILE), tl.int32)
    for r in range(R):
        first_y, stop_y = tl.load(windows), tl.load(windows + 1)
        first_x, stop_x = tl.load(windows + 2), tl.load(windows + 3)
        down = tl.minimum(stop_y, top + TILE) - tl.maximum(first_y, top)
        across = tl.minimum(stop_x, left + TILE) - tl.maximum(first_x, left)
        if tl.minimum(down, across) > 0:
            row, fraction_y = _place(y, tl.load(boxes + 1), tl.load(boxes + 3), P)
            column, fraction_x = _place(x, tl.load(boxes), tl.load(boxes + 2), Q)
            # a + f (b - a): equal neighbours give their value to the last bit
            before, lower = _cells(masks, row, column, P, Q), _cells(masks, row + 1, column, P, Q)
            before += fraction_y[:, None] * (lower - before)
            after, lower = _cells(masks, row, column + 1, P, Q), _cells(masks, row + 1, column + 1, P, Q)
            after += fraction_y[:, None] * (lower - after)
            claimed = before + fraction_x[None, :] * (after - before) >= threshold
            claimed &= ((y >= first_y) & (y < stop_y))[:, None] & ((x >= first_x) & (x < stop_x))[None, :]
            label = tl.where(claimed & (label == 0), r + 1, label)
        masks += P * Q
        boxes += 4
        windows += 4
    inside = (y < H)[:, None] & (x < W)[None, :]
    tl.store(labels + y.to(tl.int64)[:, None] * W + x[None, :], label, mask=inside)


def paste_masks(
    probabilities: torch.Tensor, boxes: torch.Tensor, height: int, width: int, threshold: float
) -> torch.Tensor:
    """See `monai_ext.ops.paste_masks.paste_masks`."""
    labels = torch.empty((height, width), dtype=torch.int32, device=probabilities.device)
    if labels.numel() == 0 or probabilities.shape[0] == 0:
        return labels.zero_()
    boxes = boxes.double().contiguous()
    bounds = reference.windows(boxes, height, width).int()
    grid = (triton.cdiv(width, TILE), triton.cdiv(height, TILE))
    count, rows, columns = probabilities.shape
    masks = probabilities.contiguous()
    _paint[grid](masks, boxes, bounds, labels, count, height, width, rows, columns, threshold, TILE)
    return labels
