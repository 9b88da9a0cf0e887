"""Triton form.

Forward, a program computes some channels of one bin. Backward, a program owns some pixels of one row of a map and adds
what every region that covers them has for them, in the regions' order: nothing is added atomically.
"""

# ruff: noqa: N803 - kernels name sizes as shapes are written

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from monai_ext.ops.roi_align import reference

PIXELS = 16  # of a row that a program of the gradient owns
CHANNELS = 256  # at most in a program


def forward(
    features: Sequence[torch.Tensor],
    rois: torch.Tensor,
    levels: torch.Tensor,
    rows: int,
    columns: int,
    scales: Sequence[float],
    sampling: int,
    aligned: bool,
) -> torch.Tensor:
    """See `monai_ext.ops.roi_align.roi_align`: `[R, C, P, Q]`, channels last in memory."""
    first = features[0]
    count, batch, channels = rois.shape[0], *first.shape[:2]
    out = first.new_empty((count, rows, columns, channels))
    images = _images(rois, batch)
    block = min(CHANNELS, triton.next_power_of_2(channels))
    grid = (count * rows * columns, triton.cdiv(channels, block))
    for level, value in enumerate(features):
        start, width, samples = _cells(rois, scales[level], rows, columns, sampling, aligned)
        _sum_bins[grid](
            value.permute(0, 2, 3, 1).contiguous(), out, images, levels, start, width, samples,
            level, value.shape[2], value.shape[3], channels, rows, columns, BLOCK=block, num_warps=_warps(block),
        )  # fmt: skip
    return out.permute(0, 3, 1, 2)


def backward(
    dy: torch.Tensor,
    rois: torch.Tensor,
    levels: torch.Tensor,
    batch: int,
    sizes: Sequence[tuple[int, int]],
    scales: Sequence[float],
    sampling: int,
    aligned: bool,
) -> list[torch.Tensor]:
    """Gradients `[N, C, H, W]` of the maps, channels last in memory."""
    count, channels, rows, columns = dy.shape
    dy = dy.permute(0, 2, 3, 1).contiguous()
    images = _images(rois, batch)
    block = min(CHANNELS, triton.next_power_of_2(channels))
    found = []
    for level, (height, width) in enumerate(sizes):
        dx = dy.new_empty((batch, height, width, channels))
        start, step, samples = _cells(rois, scales[level], rows, columns, sampling, aligned)
        end = start + step * torch.tensor([columns, rows], dtype=torch.float64, device=rois.device)
        touched = _touched(start, end, samples, images, levels == level, width, height)
        grid = (batch * height * triton.cdiv(width, PIXELS), triton.cdiv(channels, block))
        _add_regions[grid](
            dy, dx, touched, start, step, samples, count, height, width, channels, rows, columns,
            PIXELS=PIXELS, BLOCK=block, num_warps=8,
        )  # fmt: skip
        found.append(dx.permute(0, 3, 1, 2))
    return found


def _images(rois: torch.Tensor, batch: int) -> torch.Tensor:
    """Image of every region `[R]` int32, -1 for one that is not there."""
    image = rois[:, 0]
    return torch.where((image >= 0) & (image < batch), image.nan_to_num(nan=-1.0), -1.0).to(torch.int32)


def _cells(
    rois: torch.Tensor, scale: float, rows: int, columns: int, sampling: int, aligned: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    start, step, samples = reference.cells(rois, scale, rows, columns, sampling, aligned)
    return start.contiguous(), step.contiguous(), samples.to(torch.int32)


def _touched(
    start: torch.Tensor,
    end: torch.Tensor,
    samples: torch.Tensor,
    images: torch.Tensor,
    here: torch.Tensor,
    width: int,
    height: int,
) -> torch.Tensor:
    """First and last pixels `[R, 4]` int32 (x, y, x, y) that a region may touch, y counted through all images.

    Samples off the map touch its edge. Of regions that take nothing from this map the last row is before the first.
    """
    most = torch.tensor([width, height], dtype=torch.float64, device=start.device) - 1
    low = torch.minimum((torch.minimum(start, end) - 1).nan_to_num(nan=0.0).floor().clamp_min(0.0), most)
    high = torch.minimum((torch.maximum(start, end) + 1).nan_to_num(nan=0.0).floor().clamp_min(0.0), most)
    above = torch.stack([torch.zeros_like(images), images.clamp_min(0) * height], 1)
    low, high = low.to(torch.int32) + above, high.to(torch.int32) + above
    high[:, 1] = torch.where(here & (images >= 0) & (samples > 0).all(1), high[:, 1], -1)
    return torch.cat([low, high], 1).contiguous()


def _warps(block: int) -> int:
    return max(1, min(4, block // 64))


@triton.jit
def _sample(start, step, bin, i, samples, size):
    """Place of a sample on an axis, limited to the map, and whether it counts (1.0 or 0.0)."""
    at = start + (bin.to(tl.float64) + (i.to(tl.float64) + 0.5) / samples.to(tl.float64)) * step
    inside = tl.where(at >= -1.0, 1.0, 0.0) * tl.where(at <= size.to(tl.float64), 1.0, 0.0)
    at = tl.where(inside > 0.0, at, 0.0)
    at = tl.maximum(at, 0.0)
    return tl.minimum(at, (size - 1).to(tl.float64)), inside


@triton.jit
def _read(pointer, c, channels, weight):
    """Values times their weight; nothing is read for a weight of zero, since nothing times NaN is NaN."""
    value = tl.load(pointer + c, mask=c < tl.where(weight != 0.0, channels, 0), other=0.0).to(tl.float32)
    return value * weight


@triton.jit
def _sum_bins(
    data, out, images, levels, starts, steps, counts, level, height, width, channels, rows, columns,
    BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    q, p, r = program % columns, program // columns % rows, program // columns // rows
    height, width = height + tl.zeros((), tl.int32), width + tl.zeros((), tl.int32)
    if tl.load(levels + r) == level:
        c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), tl.float32)
        image = tl.load(images + r)
        if image >= 0:
            x0, y0 = tl.load(starts + r * 2), tl.load(starts + r * 2 + 1)
            dx, dy = tl.load(steps + r * 2), tl.load(steps + r * 2 + 1)
            nx, ny = tl.load(counts + r * 2), tl.load(counts + r * 2 + 1)
            for j in range(0, ny):
                y, inside_y = _sample(y0, dy, p, j + tl.zeros((), tl.int32), ny, height)
                low_y = y.to(tl.int32)
                part_y = y - low_y.to(tl.float64)
                row = data + (image.to(tl.int64) * height + low_y) * width * channels
                below = row + tl.where(low_y + 1 < height, width * channels, 0)
                for i in range(0, nx):
                    x, inside_x = _sample(x0, dx, q, i + tl.zeros((), tl.int32), nx, width)
                    low_x = x.to(tl.int32)
                    part_x = x - low_x.to(tl.float64)
                    left = low_x * channels
                    right = left + tl.where(low_x + 1 < width, channels, 0)
                    share = (inside_x * inside_y).to(tl.float64) / (nx * ny).to(tl.float64)
                    total += _read(row + left, c, channels, ((1.0 - part_y) * (1.0 - part_x) * share).to(tl.float32))
                    total += _read(row + right, c, channels, ((1.0 - part_y) * part_x * share).to(tl.float32))
                    total += _read(below + left, c, channels, (part_y * (1.0 - part_x) * share).to(tl.float32))
                    total += _read(below + right, c, channels, (part_y * part_x * share).to(tl.float32))
        to = out + program.to(tl.int64) * channels + c
        tl.store(to, total.to(out.dtype.element_ty), mask=c < channels)


@triton.jit
def _weights(start, step, bin, samples, size, pixel):
    """Weights of pixels in a bin along one axis: every sample's is a hat of width one around it."""
    total = tl.zeros_like(pixel).to(tl.float64)
    for i in range(0, samples):
        at, inside = _sample(start, step, bin, i + tl.zeros((), tl.int32), samples, size)
        total += inside * tl.maximum(1.0 - tl.abs(pixel.to(tl.float64) - at), 0.0)
    return (total / samples.to(tl.float64)).to(tl.float32)


@triton.jit
def _add_regions(
    dy, dx, touched, starts, steps, counts, regions, height, width, channels, rows, columns,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    height, width = height + tl.zeros((), tl.int32), width + tl.zeros((), tl.int32)
    tiles = (width + PIXELS - 1) // PIXELS
    first, row = program % tiles * PIXELS, program // tiles
    h = row % height
    x = first + tl.arange(0, PIXELS)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((PIXELS, BLOCK), tl.float32)
    for r in range(0, regions):
        above, below = tl.load(touched + r * 4 + 1), tl.load(touched + r * 4 + 3)
        if tl.maximum(above - row, row - below) <= 0:
            left, right = tl.load(touched + r * 4), tl.load(touched + r * 4 + 2)
            if tl.maximum(left - first - PIXELS + 1, first - right) <= 0:
                x0, y0 = tl.load(starts + r * 2), tl.load(starts + r * 2 + 1)
                step_x, step_y = tl.load(steps + r * 2), tl.load(steps + r * 2 + 1)
                nx, ny = tl.load(counts + r * 2), tl.load(counts + r * 2 + 1)
                for p in range(0, rows):
                    weight_y = _weights(y0, step_y, p + tl.zeros((), tl.int32), ny, height, h)
                    if weight_y > 0.0:
                        for q in range(0, columns):
                            weight = weight_y * _weights(x0, step_x, q + tl.zeros((), tl.int32), nx, width, x)
                            at = ((r + tl.zeros((), tl.int64)) * rows + p) * columns + q
                            value = tl.load(dy + at * channels + c, mask=c < channels, other=0.0).to(tl.float32)
                            total += tl.where(weight[:, None] > 0.0, weight[:, None] * value[None, :], 0.0)
    to = dx + row.to(tl.int64) * width * channels + x[:, None] * channels + c[None, :]
    tl.store(to, total.to(dx.dtype.element_ty), mask=(x[:, None] < width) & (c[None, :] < channels))
