"""Triton form: overlaps of all pairs as bits, then one program a run of groups that decides in order, on the device.

The bits of N boxes take N * N / 8 bytes.
"""
# ruff: noqa: N803 - kernels name sizes as shapes are written

from __future__ import annotations

import torch
import triton
import triton.language as tl

from monai_ext.ops.nms import reference

BLOCK = 64  # boxes whose bits make a word
CHUNK = 1024  # boxes whose words are read at once


@triton.jit
def _area(x0, y0, x1, y1):
    width, height = x1 - x0, y1 - y0
    # a NaN must stay, which a maximum would not promise
    return tl.where(width < 0, 0.0, width) * tl.where(height < 0, 0.0, height)


@triton.jit(do_not_specialize=["count", "threshold"])
def _pairs(boxes, groups, words, count, threshold, padded, GROUPED: tl.constexpr, BLOCK: tl.constexpr):
    """Word `[column block, row]` tells by its bit k whether the row overlaps the column k of the block, after it.

    Pairs of blocks that share no group are not written, nor are blocks of columns before the rows.
    """
    across, down = tl.program_id(0), tl.program_id(1)
    wanted = across >= down
    if GROUPED:
        # groups ascend: the last of the rows is the only one that may reach as far as the first of the columns
        last = tl.load(groups + tl.minimum(down * BLOCK + BLOCK - 1, count - 1))
        first = tl.load(groups + across * BLOCK)
        wanted = tl.where(last < first, across == down, wanted)
    if wanted:
        lane = tl.arange(0, BLOCK)
        rows, columns = down * BLOCK + lane, across * BLOCK + lane
        row, column = boxes + rows.to(tl.int64) * 4, boxes + columns.to(tl.int64) * 4
        r0 = tl.load(row, mask=rows < count, other=0.0)
        r1 = tl.load(row + 1, mask=rows < count, other=0.0)
        r2 = tl.load(row + 2, mask=rows < count, other=0.0)
        r3 = tl.load(row + 3, mask=rows < count, other=0.0)
        c0 = tl.load(column, mask=columns < count, other=0.0)
        c1 = tl.load(column + 1, mask=columns < count, other=0.0)
        c2 = tl.load(column + 2, mask=columns < count, other=0.0)
        c3 = tl.load(column + 3, mask=columns < count, other=0.0)
        width = tl.minimum(r2[:, None], c2[None, :]) - tl.maximum(r0[:, None], c0[None, :])
        height = tl.minimum(r3[:, None], c3[None, :]) - tl.maximum(r1[:, None], c1[None, :])
        shared = tl.where((width > 0) & (height > 0), width * height, 0.0)
        together = _area(r0, r1, r2, r3)[:, None] + _area(c0, c1, c2, c3)[None, :] - shared
        over = (shared > threshold * together) & (columns[None, :] > rows[:, None])
        if GROUPED:
            own = tl.load(groups + rows, mask=rows < count, other=0)
            other = tl.load(groups + columns, mask=columns < count, other=0)
            over = over & (own[:, None] == other[None, :])
        bit = tl.full((BLOCK,), 1, tl.int64) << lane.to(tl.int64)
        tl.store(words + across.to(tl.int64) * padded + rows, tl.sum(tl.where(over, bit[None, :], 0), 1))


@triton.jit
def _either(a, b):
    return a | b


@triton.jit
def _decide(words, kept, block, padded, own, dead, BLOCK: tl.constexpr):
    """Go through the boxes of a block in order; `own` marks those that are decided here, `dead` those struck out."""
    lane = tl.arange(0, BLOCK)
    bit = tl.full((BLOCK,), 1, tl.int64) << lane.to(tl.int64)
    dead = dead | ~tl.sum(tl.where(own, bit, 0), 0)
    diagonal = words + block.to(tl.int64) * padded + block * BLOCK
    for k in tl.static_range(BLOCK):
        word = tl.load(diagonal + k)
        # all ones if the box is alive
        dead = dead | (word & (((dead >> k) & 1) - 1))
    alive = (~dead >> lane.to(tl.int64)) & 1
    tl.store(kept + block * BLOCK + lane, alive.to(tl.uint8), mask=own)


@triton.jit(do_not_specialize=["count", "blocks"])
def _scan(words, groups, kept, count, blocks, padded, GROUPED: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr):
    """Decides the groups that begin in the program's block, the last of them to its end; every box is decided once."""
    lane = tl.arange(0, BLOCK)
    at = tl.program_id(0)
    rows = at * BLOCK + lane
    own = rows < count
    begin = at * BLOCK
    group = tl.zeros((), tl.int64)
    if GROUPED:
        found = tl.load(groups + rows, mask=own, other=0)
        group = tl.load(groups + tl.minimum(begin + BLOCK - 1, count - 1))
        before = tl.load(groups + tl.maximum(begin - 1, 0))
        own = own & ((found != before) | (rows < BLOCK))
        begin += tl.sum(tl.where((rows < count) & (found < group), 1, 0), 0)
    # groups ascend: where any box is the program's, the last of the block is
    if tl.sum(tl.where(own, 1, 0), 0) > 0:
        block = at
        _decide(words, kept, block, padded, own, tl.zeros((), tl.int64), BLOCK)
        block += 1
        if GROUPED:
            following = tl.load(groups + tl.minimum(block * BLOCK, count - 1))
            block = tl.where(following == group, block, blocks)
        while block < blocks:
            # what was decided for one block is read for the next
            tl.debug_barrier()
            struck = tl.zeros((CHUNK,), tl.int64)
            for first in range(begin, block * BLOCK, CHUNK):
                earlier = first + tl.arange(0, CHUNK)
                alive = tl.load(kept + earlier, mask=earlier < block * BLOCK, other=0) != 0
                struck = struck | tl.load(words + block.to(tl.int64) * padded + earlier, mask=alive, other=0)
            rows = block * BLOCK + lane
            own = rows < count
            if GROUPED:
                own = own & (tl.load(groups + rows, mask=own, other=0) == group)
            _decide(words, kept, block, padded, own, tl.reduce(struck, 0, _either), BLOCK)
            block += 1
            if GROUPED:
                following = tl.load(groups + tl.minimum(block * BLOCK, count - 1))
                block = tl.where(following == group, block, blocks)


def suppress(boxes: torch.Tensor, groups: torch.Tensor | None, threshold: float) -> torch.Tensor:
    """See `monai_ext.ops.nms.reference.suppress`; nothing here waits for the device."""
    if boxes.dtype != torch.float32:
        return reference.suppress(boxes, groups, threshold)
    boxes, count = boxes.contiguous(), boxes.shape[0]
    blocks = triton.cdiv(count, BLOCK)
    padded = blocks * BLOCK
    words = torch.empty((blocks, padded), dtype=torch.int64, device=boxes.device)
    kept = torch.empty(count, dtype=torch.uint8, device=boxes.device)
    grouped = groups is not None
    table = words if groups is None else groups.contiguous()
    # products and sums are not contracted, so that an overlap near the threshold is decided as in all other forms
    _pairs[(blocks, blocks)](
        boxes, table, words, count, threshold, padded, grouped, BLOCK, num_warps=8, enable_fp_fusion=False
    )
    _scan[(blocks if grouped else 1,)](words, table, kept, count, blocks, padded, grouped, BLOCK, CHUNK)
    return kept.view(torch.bool)
