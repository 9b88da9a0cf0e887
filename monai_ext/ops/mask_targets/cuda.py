"""Triton form: a program for a row of bins of a region, which reads its samples' four pixels from the map."""
# ruff: noqa: N803 - kernels name sizes as shapes are written

from __future__ import annotations

import torch
import triton
import triton.language as tl

from monai_ext.ops.mask_targets.reference import LARGEST_SIDE, MARGIN

_LARGEST = tl.constexpr(LARGEST_SIDE)


@triton.jit
def _samples(length, SIZE, SAMPLING):
    """Samples of a bin along an axis, 0 where there is no bin."""
    # products of conditions: the interpreter cannot chain those of single values
    valid = tl.where(length > 0, 1, 0) * tl.where(length <= _LARGEST, 1, 0)
    wanted = tl.where(SAMPLING > 0, SAMPLING, tl.ceil(tl.where(valid > 0, length, 1.0) / SIZE).to(tl.int32))
    return valid * wanted


@triton.jit
def _place(place, EXTENT):
    """Pixels before and after a place, the fraction of the way to the second, and whether the place counts: 1 or 0."""
    counts = (place >= -1.0) & (place <= EXTENT * 1.0)
    place = tl.minimum(tl.maximum(tl.where(counts, place, 0.0), 0.0), EXTENT - 1.0)
    before = tl.floor(place)
    first = before.to(tl.int32)
    return first, tl.minimum(first + 1, EXTENT - 1), (place - before).to(tl.float32), counts.to(tl.float32)


@triton.jit
def _is(pixel, number, valid):
    return (tl.load(pixel, mask=valid, other=0) == number).to(tl.float32)


@triton.jit(do_not_specialize=["N", "H", "W"])
def _targets(labels, rois, ids, out, N, H, W, SIZE, SAMPLING, HALF, BLOCK: tl.constexpr):
    r, p = tl.program_id(0).to(tl.int64), tl.program_id(1)
    q = tl.arange(0, BLOCK)
    roi = rois + 5 * r
    image, x0, y0 = tl.load(roi), tl.load(roi + 1), tl.load(roi + 2)
    width, height = tl.load(roi + 3) - x0, tl.load(roi + 4) - y0
    number = tl.load(ids + r)
    is_there = tl.where(image >= 0.0, 1, 0) * tl.where(image < N * 1.0, 1, 0) * tl.where(number > 0, 1, 0)
    count_x, count_y = is_there * _samples(width, SIZE, SAMPLING), is_there * _samples(height, SIZE, SAMPLING)
    plane = labels + tl.where(is_there > 0, image, 0.0).to(tl.int64) * H * W
    # NaN would be harmless, but the interpreter warns of it
    x0, width = tl.where(count_x > 0, x0, 0.0), tl.where(count_x > 0, width, 0.0)
    y0, height = tl.where(count_y > 0, y0, 0.0), tl.where(count_y > 0, height, 0.0)
    bin_x, bin_y = width / SIZE, height / SIZE
    start_x, start_y = x0 - 0.5 + q.to(tl.float64) * bin_x, y0 - 0.5 + p.to(tl.float64) * bin_y
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(count_y):
        top, low, fraction_y, counts_y = _place(start_y + (i + 0.5) * bin_y / count_y, H)
        upper, lower = plane + top.to(tl.int64) * W, plane + low.to(tl.int64) * W
        line = tl.zeros((BLOCK,), tl.float32)
        for j in range(count_x):
            left, right, fraction_x, counts_x = _place(start_x + (j + 0.5) * bin_x / count_x, W)
            valid = (q < SIZE) & (counts_x * counts_y > 0)
            above = (1 - fraction_x) * _is(upper + left, number, valid) + fraction_x * _is(upper + right, number, valid)
            below = (1 - fraction_x) * _is(lower + left, number, valid) + fraction_x * _is(lower + right, number, valid)
            line += (1 - fraction_y) * above + fraction_y * below
        total += line
    samples = count_x.to(tl.float32) * count_y.to(tl.float32)
    result = (total >= tl.where(samples > 0, HALF * samples, 1.0)).to(tl.float32)
    tl.store(out + (r * SIZE + p) * SIZE + q, result, mask=q < SIZE)


def mask_targets(
    label_maps: torch.Tensor, rois: torch.Tensor, ids: torch.Tensor, size: int, sampling: int
) -> torch.Tensor:
    """See `monai_ext.ops.mask_targets.mask_targets`; maps and ids int32, rois float64."""
    targets = torch.empty((rois.shape[0], size, size), dtype=torch.float32, device=rois.device)
    if rois.shape[0] == 0 or label_maps.numel() == 0:
        return targets.zero_()
    block = triton.next_power_of_2(size)
    _targets[(rois.shape[0], size)](
        label_maps, rois.contiguous(), ids.contiguous(), targets, *label_maps.shape, size, sampling, 0.5 - MARGIN, block
    )
    return targets
