"""Triton form: bytes are the limit, so every value is read as few times as the statistics allow.

Tiles are those of `monai_ext.ops.tiles`. Groups that fit into the registers of one program take one kernel, which reads
x once. Others are cut along the positions: one kernel reduces every chunk, one merges the chunks (Chan, Golub and
LeVeque 1983), one applies. All sums have a fixed order: equal inputs give equal bits.
"""
# ruff: noqa: N803 - kernels name sizes as shapes are written

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import triton
import triton.language as tl

from monai_ext.ops.tiles import column, cut, lanes, output_like, place, read, write

FUSED_VALUES = 16384  # largest tile held in registers: 32 values a thread with 16 warps
MERGED = 1024  # chunks merged at a time


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    residual: torch.Tensor | None,
    groups: int,
    eps: float,
    negative_slope: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output, mean and reciprocal standard deviation; x contiguous or channels last, the residual laid out alike."""
    statistics = (x.shape[0], groups)
    if x.numel() == 0:
        zeros = x.new_zeros((2, *statistics), dtype=torch.float32)
        return torch.empty_like(x), zeros[0], zeros[1].clone()
    weight, bias = weight.float().contiguous(), bias.float().contiguous()
    residual = None if residual is None else residual.to(x.dtype)
    y = output_like(x)
    mean = x.new_empty(statistics, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    plan = _plan(x, groups)
    inputs, grid = (x, weight, bias, residual), (plan.programs,)
    if plan.fused:
        _forward_fused[grid](*inputs, y, mean, rstd, *plan.sizes, eps, negative_slope, **plan.tile)
        return y.to(x.dtype), mean, rstd
    partial = x.new_empty((2, *x.shape[:2], plan.splits), dtype=torch.float32)
    _moments[grid](x, *partial, *plan.sizes, *plan.chunks, **plan.tile)
    _merge_moments[(mean.numel(),)](*partial, mean, rstd, *plan.sizes, *plan.chunks, eps, **plan.merge)
    _apply[grid](*inputs, mean, rstd, y, *plan.sizes, *plan.chunks, negative_slope, **plan.tile)
    return y.to(x.dtype), mean, rstd


def backward(
    dy: torch.Tensor,
    kept: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    residual: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    negative_slope: float,
    keep_output: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of x, weight, bias and residual (empty without one)."""
    dx = output_like(kept)
    added = None if residual is None else output_like(kept)
    if kept.numel() == 0:
        none = kept.new_empty(0) if added is None else added.to(kept.dtype)
        return dx.to(kept.dtype), torch.zeros_like(weight), torch.zeros_like(bias), none
    residual = None if residual is None else residual.to(kept.dtype)
    weights, biases = weight.float().contiguous(), bias.float().contiguous()
    dweight, dbias = torch.empty_like(weights), torch.empty_like(biases)
    plan = _plan(kept, mean.shape[1])
    partial = kept.new_empty((2, *kept.shape[:2], plan.splits), dtype=torch.float32)
    inputs, grid = (dy, kept, weights, biases, residual, mean, rstd), (plan.programs,)
    how = {"OUT": keep_output, **plan.tile}
    if plan.fused:
        _backward_fused[grid](*inputs, dx, added, *partial, *plan.sizes, negative_slope, **how)
    else:
        _gradient_sums[grid](*inputs, *partial, *plan.sizes, *plan.chunks, negative_slope, **how)
    rows = 0 if plan.fused else mean.numel()
    factors = kept.new_empty((2, *mean.shape), dtype=torch.float32)
    gradients = (dweight, dbias, rows, kept.shape[0])
    _merge_sums[(rows + len(weights),)](
        *partial, weights, rstd, *factors, *gradients, *plan.sizes, plan.splits, **plan.merge
    )
    if not plan.fused:
        _apply_gradient[grid](*inputs, *factors, dx, added, *plan.sizes, *plan.chunks, negative_slope, **how)
    none = kept.new_empty(0) if added is None else added.to(kept.dtype)
    return dx.to(kept.dtype), dweight.to(weight.dtype), dbias.to(bias.dtype), none


@dataclass(frozen=True)
class _Plan:
    """How a tensor is cut and its kernels are called.

    Attributes:
        fused: whether tiles hold whole groups.
        programs: how many work on it.
        splits: chunks that the positions of a channel are cut into.
        sizes: channels, positions, groups, channels a group.
        chunks: `splits`, and positions of a chunk.
        tile: constants of the kernels that read it.
        merge: constants of the kernels that merge chunks.
    """

    fused: bool
    programs: int
    splits: int
    sizes: tuple[int, int, int, int]
    chunks: tuple[int, int]
    tile: dict[str, Any]
    merge: dict[str, Any]


def _plan(x: torch.Tensor, groups: int) -> _Plan:
    batch, channels, positions = x.shape[0], x.shape[1], prod(x.shape[2:])
    per, last = channels // groups, not x.is_contiguous()
    power_c, power_s = triton.next_power_of_2(channels), triton.next_power_of_2(positions)
    if per > 1:
        block_c = triton.next_power_of_2(per)
    elif last:  # runs of 32 bytes, the least that memory hands out, or half of it if the cache has to join them
        sector = 32 // x.element_size()
        block_c = min(power_c, sector if sector * power_s <= FUSED_VALUES else 8)
    else:
        block_c = min(power_c, max(1, 512 // power_s))
    block_s, fused = power_s, block_c * power_s <= FUSED_VALUES
    splits, chunk = 1, positions
    blocks = groups if per > 1 else triton.cdiv(channels, block_c)
    if not fused:
        block_c, block_s, blocks, splits, chunk = cut(batch, channels, positions, last)
    tile: dict[str, Any] = {"BLOCK_C": block_c, "BLOCK_S": block_s, "LAST": last}
    if fused:
        tile["GROUPED"] = per > 1
    tile["num_warps"] = max(1, min(16 if fused else 8, block_c * block_s // 256))
    merged = min(MERGED, triton.next_power_of_2(max(batch, per) * splits))
    merge = {"BLOCK": merged, "num_warps": max(1, merged // 256)}
    sizes = (channels, positions, groups, per)
    return _Plan(fused, batch * blocks * splits, splits, sizes, (splits, chunk), tile, merge)


# ---- pieces of kernels -----------------------------------------------------------------------------------------------


@triton.jit
def _total(values, GROUPED: tl.constexpr):
    """Sums `[BLOCK_C, 1]` over the positions, and over the channels where they are one group."""
    total = tl.sum(values, 1)
    if GROUPED:
        total = tl.zeros_like(total) + tl.sum(total, 0)
    return total[:, None]


@triton.jit
def _activated(centred, residual, base, offsets, mask, a, b, slope):
    z = centred * a + b
    if residual is not None:
        z += read(residual, base, offsets, mask)
    return tl.where(z > 0, z, z * slope)


@triton.jit
def _constants(weight, bias, mean, rstd, row, c, valid, OUT: tl.constexpr):
    """Of every channel: what `_terms` takes, and what makes its first result the normalised value."""
    mu, rs = column(mean, row, valid), column(rstd, row, valid)
    w, b = column(weight, c, valid), column(bias, c, valid)
    if OUT:
        inverse = tl.where(w == 0, 0.0, 1.0 / tl.where(w == 0, 1.0, w))
        return mu, inverse, b, tl.zeros_like(rs) + 1.0
    else:
        return mu, rs * w, b, rs


@triton.jit
def _terms(dy, kept, residual, base, offsets, mask, mu, a, b, slope, OUT: tl.constexpr):
    """Deviation from the mean (with `OUT` the normalised value) and gradient before the activation."""
    g = read(dy, base, offsets, mask)
    value = read(kept, base, offsets, mask)
    if OUT:  # a is 1 / weight
        z = tl.where(value > 0, value, value * (1.0 / slope))
        deviation = z - b
        if residual is not None:
            deviation = (z - read(residual, base, offsets, mask)) - b
        deviation *= a
    else:  # a is weight * rstd, so that z has the bits that it had forward
        deviation = value - mu
        z = deviation * a + b
        if residual is not None:
            z += read(residual, base, offsets, mask)
    return deviation, tl.where(z > 0, g, g * slope)


# ---- tiles that hold whole groups ------------------------------------------------------------------------------------


@triton.jit
def _forward_fused(
    x, weight, bias, residual, y, mean, rstd, C, S, G, per, eps, slope,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr, GROUPED: tl.constexpr,
):  # fmt: skip
    width = per if GROUPED else BLOCK_C
    n, c0, _, _, base = place(tl.program_id(0), (C + width - 1) // width, width, C, S, 1, S, LAST)
    lane, s, offsets = lanes(C, S, BLOCK_C, BLOCK_S, LAST)
    c = c0 + lane
    valid = (lane < width) & (c < C)
    mask = valid[:, None] & (s < S)
    count = S * per
    values = read(x, base, offsets, mask)
    mu = _total(values, GROUPED) / count
    values = tl.where(mask, values - mu, 0.0)
    rest = _total(values, GROUPED) / count  # what rounding left out of the mean
    values = tl.where(mask, values - rest, 0.0)
    rs = tl.rsqrt(_total(values * values, GROUPED) / count + eps)
    a, b = column(weight, c, valid) * rs, column(bias, c, valid)
    write(y, base, offsets, _activated(values, residual, base, offsets, mask, a, b, slope), mask)
    row = (n * G + c // per)[:, None]
    tl.store(mean + row, mu + rest, mask=valid[:, None])
    tl.store(rstd + row, rs, mask=valid[:, None])


@triton.jit
def _backward_fused(
    dy, kept, weight, bias, residual, mean, rstd, dx, added, sums, products, C, S, G, per, slope,
    OUT: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr, GROUPED: tl.constexpr,
):  # fmt: skip
    width = per if GROUPED else BLOCK_C
    n, c0, _, _, base = place(tl.program_id(0), (C + width - 1) // width, width, C, S, 1, S, LAST)
    lane, s, offsets = lanes(C, S, BLOCK_C, BLOCK_S, LAST)
    c = c0 + lane
    valid = (lane < width) & (c < C)
    mask = valid[:, None] & (s < S)
    row = n * G + c // per
    mu, a, b, scale = _constants(weight, bias, mean, rstd, row, c, valid, OUT)
    deviation, dz = _terms(dy, kept, residual, base, offsets, mask, mu, a, b, slope, OUT)
    s1 = _total(dz, False)
    s2 = _total(tl.where(mask, dz * deviation, 0.0), False) * scale
    w, rs = column(weight, c, valid), column(rstd, row, valid)
    flat = _total(w * s1, GROUPED) * rs / (S * per)
    sloped = _total(w * s2, GROUPED) * rs / (S * per) * scale
    write(dx, base, offsets, rs * w * dz - flat - deviation * sloped, mask)
    if added is not None:
        write(added, base, offsets, dz, mask)
    index = (n * C + c)[:, None]
    tl.store(sums + index, s1, mask=valid[:, None])
    tl.store(products + index, s2, mask=valid[:, None])


# ---- chunks ----------------------------------------------------------------------------------------------------------


@triton.jit
def _moments(
    x, means, squares, C, S, G, per, splits, chunk,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of a chunk; every lane of the tile keeps its own until the end (Welford)."""
    blocks = (C + BLOCK_C - 1) // BLOCK_C
    n, c0, split, length, base = place(tl.program_id(0), blocks, BLOCK_C, C, S, splits, chunk, LAST)
    lane, s, offsets = lanes(C, S, BLOCK_C, BLOCK_S, LAST)
    valid = c0 + lane < C
    mu = tl.zeros((BLOCK_C, BLOCK_S), tl.float32)
    m2 = tl.zeros((BLOCK_C, BLOCK_S), tl.float32)
    for i in range(0, length, BLOCK_S):
        mask = valid[:, None] & (s < length - i)
        value = read(x, base + (i * C if LAST else i), offsets, mask)
        d = tl.where(mask, value - mu, 0.0)
        mu += d * (1.0 / (i // BLOCK_S + 1))
        m2 += d * (value - mu)
    counts = ((length - s + BLOCK_S - 1) // BLOCK_S).to(tl.float32)
    total = length.to(tl.float32)
    whole = _total(counts * mu, False) / total
    mu -= whole
    rest = _total(counts * mu, False) / total  # what rounding left out of the mean
    mu -= rest
    index = ((n * C + c0 + lane) * splits + split)[:, None]
    tl.store(means + index, whole + rest, mask=valid[:, None])
    tl.store(squares + index, _total(m2 + counts * mu * mu, False), mask=valid[:, None])


@triton.jit
def _merge_moments(means, squares, mean, rstd, C, S, G, per, splits, chunk, eps, BLOCK: tl.constexpr):
    """Statistics of one group of one sample from its chunks, which lie side by side."""
    row = tl.program_id(0).to(tl.int64)
    parts = per * splits
    sums = tl.zeros((BLOCK,), tl.float64)
    counts = tl.zeros((BLOCK,), tl.float64)
    for i in range(0, parts, BLOCK):
        part = i + tl.arange(0, BLOCK)
        mask = part < parts
        count = tl.where(mask, tl.minimum(S - part % splits * chunk, chunk), 0).to(tl.float64)
        sums += count * tl.load(means + row * parts + part, mask=mask, other=0.0)
        counts += count
    total = tl.sum(counts, 0)
    mu = tl.sum(sums, 0) / total
    deviations = tl.zeros((BLOCK,), tl.float64)
    for i in range(0, parts, BLOCK):
        part = i + tl.arange(0, BLOCK)
        mask = part < parts
        count = tl.where(mask, tl.minimum(S - part % splits * chunk, chunk), 0).to(tl.float64)
        d = tl.load(means + row * parts + part, mask=mask, other=0.0) - mu
        deviations += tl.load(squares + row * parts + part, mask=mask, other=0.0) + count * d * d
    tl.store(mean + row, mu.to(tl.float32))
    tl.store(rstd + row, (1.0 / tl.sqrt(tl.sum(deviations, 0) / total + eps)).to(tl.float32))


@triton.jit
def _apply(
    x, weight, bias, residual, mean, rstd, y, C, S, G, per, splits, chunk, slope,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    program = tl.num_programs(0) - 1 - tl.program_id(0)  # backwards: the cache holds what was read last
    blocks = (C + BLOCK_C - 1) // BLOCK_C
    n, c0, _, length, base = place(program, blocks, BLOCK_C, C, S, splits, chunk, LAST)
    lane, s, offsets = lanes(C, S, BLOCK_C, BLOCK_S, LAST)
    c = c0 + lane
    valid = c < C
    row = n * G + c // per
    mu, a, b, _ = _constants(weight, bias, mean, rstd, row, c, valid, False)
    for i in range(0, length, BLOCK_S):
        mask = valid[:, None] & (s < length - i)
        here = base + (i * C if LAST else i)
        centred = read(x, here, offsets, mask) - mu
        write(y, here, offsets, _activated(centred, residual, here, offsets, mask, a, b, slope), mask)


@triton.jit
def _gradient_sums(
    dy, kept, weight, bias, residual, mean, rstd, sums, products, C, S, G, per, splits, chunk, slope,
    OUT: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Sums over a chunk of the gradient before the activation, alone and times the normalised value."""
    blocks = (C + BLOCK_C - 1) // BLOCK_C
    n, c0, split, length, base = place(tl.program_id(0), blocks, BLOCK_C, C, S, splits, chunk, LAST)
    lane, s, offsets = lanes(C, S, BLOCK_C, BLOCK_S, LAST)
    c = c0 + lane
    valid = c < C
    mu, a, b, scale = _constants(weight, bias, mean, rstd, n * G + c // per, c, valid, OUT)
    s1 = tl.zeros((BLOCK_C, BLOCK_S), tl.float32)
    s2 = tl.zeros((BLOCK_C, BLOCK_S), tl.float32)
    for i in range(0, length, BLOCK_S):
        mask = valid[:, None] & (s < length - i)
        here = base + (i * C if LAST else i)
        deviation, dz = _terms(dy, kept, residual, here, offsets, mask, mu, a, b, slope, OUT)
        s1 += dz
        s2 += dz * deviation
    index = ((n * C + c) * splits + split)[:, None]
    tl.store(sums + index, _total(s1, False), mask=valid[:, None])
    tl.store(products + index, _total(s2, False) * scale, mask=valid[:, None])


@triton.jit
def _merge_sums(
    sums, products, weight, rstd, flat, sloped, dweight, dbias, rows, N, C, S, G, per, splits, BLOCK: tl.constexpr
):  # fmt: skip
    """The first `rows` programs: what dx subtracts in a group of a sample; the others: gradients of a channel."""
    program = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.float64)
    product = tl.zeros((BLOCK,), tl.float64)
    if program < rows:
        row = program.to(tl.int64)
        parts = per * splits
        for i in range(0, parts, BLOCK):
            part = i + tl.arange(0, BLOCK)
            mask = part < parts
            w = tl.load(weight + program % G * per + part // splits, mask=mask, other=0.0).to(tl.float64)
            total += w * tl.load(sums + row * parts + part, mask=mask, other=0.0)
            product += w * tl.load(products + row * parts + part, mask=mask, other=0.0)
        factor = tl.load(rstd + row).to(tl.float64) / per / S
        tl.store(flat + row, (tl.sum(total, 0) * factor).to(tl.float32))
        tl.store(sloped + row, (tl.sum(product, 0) * factor).to(tl.float32))
    else:
        c = program - rows
        for i in range(0, N * splits, BLOCK):
            part = i + tl.arange(0, BLOCK)
            mask = part < N * splits
            index = ((part // splits).to(tl.int64) * C + c) * splits + part % splits
            total += tl.load(sums + index, mask=mask, other=0.0)
            product += tl.load(products + index, mask=mask, other=0.0)
        tl.store(dbias + c, tl.sum(total, 0).to(tl.float32))
        tl.store(dweight + c, tl.sum(product, 0).to(tl.float32))


@triton.jit
def _apply_gradient(
    dy, kept, weight, bias, residual, mean, rstd, flat, sloped, dx, added, C, S, G, per, splits, chunk, slope,
    OUT: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    program = tl.num_programs(0) - 1 - tl.program_id(0)  # as in _apply
    blocks = (C + BLOCK_C - 1) // BLOCK_C
    n, c0, _, length, base = place(program, blocks, BLOCK_C, C, S, splits, chunk, LAST)
    lane, s, offsets = lanes(C, S, BLOCK_C, BLOCK_S, LAST)
    c = c0 + lane
    valid = c < C
    row = n * G + c // per
    mu, a, b, scale = _constants(weight, bias, mean, rstd, row, c, valid, OUT)
    p = column(weight, c, valid) * column(rstd, row, valid)
    t, q = column(flat, row, valid), column(sloped, row, valid) * scale
    for i in range(0, length, BLOCK_S):
        mask = valid[:, None] & (s < length - i)
        here = base + (i * C if LAST else i)
        deviation, dz = _terms(dy, kept, residual, here, offsets, mask, mu, a, b, slope, OUT)
        write(dx, here, offsets, p * dz - t - deviation * q, mask)
        if added is not None:
            write(added, here, offsets, dz, mask)
