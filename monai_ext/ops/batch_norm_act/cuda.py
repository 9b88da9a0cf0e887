"""Triton form: one kernel reduces chunks of positions, one merges them, one applies.

Tiles are those of `monai_ext.ops.tiles`. Channels last, the batch is one long run of positions. Chunks are merged after
Chan, Golub and LeVeque (1983). All sums have a fixed order: equal inputs give equal bits.
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

MERGED = 128  # chunks merged at a time
MERGED_CHANNELS = 8  # of a program that merges: 32 bytes, the least that memory hands out


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
    residual: torch.Tensor | None,
    eps: float,
    relu: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output, mean and variance (empty if given); x contiguous or channels last, the residual laid out alike."""
    plan = _plan(x)
    weight, bias = weight.float().contiguous(), bias.float().contiguous()
    y = output_like(x)
    if mean is None or var is None:
        batch_mean = x.new_empty(x.shape[1], dtype=torch.float32)
        batch_var = torch.empty_like(batch_mean)
        partial = x.new_empty((3, plan.parts, x.shape[1]), dtype=torch.float32)
        _moments[(plan.programs,)](x, *partial, *plan.sizes, **plan.tile)
        _merge_moments[(plan.mergers,)](*partial, batch_mean, batch_var, plan.parts, *plan.sizes, **plan.merge)
        mean, var = batch_mean, batch_var
    else:
        batch_mean = x.new_empty(0, dtype=torch.float32)
        batch_var = torch.empty_like(batch_mean)
        mean, var = mean.float().contiguous(), var.float().contiguous()
    _apply[(plan.programs,)](x, weight, bias, mean, var, residual, y, eps, *plan.sizes, RELU=relu, **plan.tile)
    return y.to(x.dtype), batch_mean, batch_var


def backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    eps: float,
    relu: bool,
    training: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of x, weight, bias and, with y, of what was added before the ReLU (else empty)."""
    plan = _plan(x)
    weights, biases = weight.float().contiguous(), bias.float().contiguous()
    mean, var = mean.float().contiguous(), var.float().contiguous()
    dx, added = output_like(x), None if y is None else output_like(x)
    partial = x.new_empty((2, plan.parts, x.shape[1]), dtype=torch.float32)
    merged = x.new_empty((4, x.shape[1]), dtype=torch.float32)
    constants = (weights, biases, mean, var)
    written = None if training else dx
    _gradient_sums[(plan.programs,)](
        dy, x, y, *constants, *partial, added, written, eps, *plan.sizes, RELU=relu, **plan.tile
    )
    _merge_sums[(plan.mergers,)](*partial, weights, var, *merged, eps, plan.parts, *plan.sizes, **plan.merge)
    if training:
        # with a residual the masked gradient is written already
        gradient, mask = (dy, relu) if added is None else (added, False)
        _apply_gradient[(plan.programs,)](
            gradient, x, *constants, *merged[:2], dx, eps, *plan.sizes, RELU=mask, **plan.tile
        )
    none = x.new_empty(0) if added is None else added.to(x.dtype)
    return dx.to(x.dtype), merged[2].to(weight.dtype, copy=True), merged[3].to(bias.dtype, copy=True), none


@dataclass(frozen=True)
class _Plan:
    """How a tensor is cut and its kernels are called.

    Attributes:
        programs: how many work on it.
        parts: chunks of a channel in the whole batch.
        mergers: programs that merge them.
        sizes: batch, channels, positions, chunks of the positions, positions of a chunk.
        tile: constants of the kernels that read it.
        merge: constants of the kernels that merge chunks.
    """

    programs: int
    parts: int
    mergers: int
    sizes: tuple[int, int, int, int, int]
    tile: dict[str, Any]
    merge: dict[str, Any]


def _plan(x: torch.Tensor) -> _Plan:
    batch, channels, positions = x.shape[0], x.shape[1], prod(x.shape[2:])
    last = not x.is_contiguous()
    if last:
        batch, positions = 1, batch * positions
    block_c, block_s, blocks, splits, chunk = cut(batch, channels, positions, last)
    warps = max(1, min(8, block_c * block_s // 256))
    tile: dict[str, Any] = {"BLOCK_C": block_c, "BLOCK_S": block_s, "LAST": last, "num_warps": warps}
    parts = batch * splits
    merge = {
        "BLOCK_P": min(MERGED, triton.next_power_of_2(parts)),
        "BLOCK_C": min(MERGED_CHANNELS, triton.next_power_of_2(channels)),
    }
    mergers = triton.cdiv(channels, merge["BLOCK_C"])
    return _Plan(batch * blocks * splits, parts, mergers, (batch, channels, positions, splits, chunk), tile, merge)


# ---- pieces of kernels -----------------------------------------------------------------------------------------------


@triton.jit
def _affine(weight, bias, mean, var, eps, c, valid):
    """Mean, factor and bias of channels; the same operations forward and backward, so that masks agree."""
    a = column(weight, c, valid) / tl.sqrt(column(var, c, valid) + eps)
    return column(mean, c, valid), a, column(bias, c, valid)


@triton.jit
def _passed(z, gradient):
    return tl.where(z <= 0, 0.0, gradient)  # a NaN is not below zero and hands its gradient on


# ---- statistics and output -------------------------------------------------------------------------------------------


@triton.jit
def _moments(
    x, means, rests, squares, N, C, S, splits, chunk,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Mean, what rounding left out of it, and sum of squared deviations of a chunk.

    Every lane of the tile keeps its own mean and sum until the end (Welford).
    """
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
    whole = tl.sum(counts * mu, 1)[:, None] / total
    mu -= whole
    rest = tl.sum(counts * mu, 1)[:, None] / total
    mu -= rest
    index = ((n * splits + split) * C + c0 + lane)[:, None]
    tl.store(means + index, whole, mask=valid[:, None])
    tl.store(rests + index, rest, mask=valid[:, None])
    tl.store(squares + index, tl.sum(m2 + counts * mu * mu, 1)[:, None], mask=valid[:, None])


@triton.jit
def _merge_moments(
    means, rests, squares, mean, var, parts, N, C, S, splits, chunk, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr
):
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    p = tl.arange(0, BLOCK_P)[:, None]
    total = 1.0 * N * S
    sums = tl.zeros((BLOCK_P, BLOCK_C), tl.float64)
    for i in range(0, parts, BLOCK_P):
        mask = (i + p < parts) & (c < C)
        count = tl.minimum(S - (i + p) % splits * chunk, chunk).to(tl.float64)
        index = (i + p).to(tl.int64) * C + c
        part = tl.load(means + index, mask=mask, other=0.0).to(tl.float64)
        sums += count * (part + tl.load(rests + index, mask=mask, other=0.0))
    mu = tl.sum(sums, 0)[None, :] / total
    deviations = tl.zeros((BLOCK_P, BLOCK_C), tl.float64)
    for i in range(0, parts, BLOCK_P):
        mask = (i + p < parts) & (c < C)
        count = tl.where(mask, tl.minimum(S - (i + p) % splits * chunk, chunk), 0).to(tl.float64)
        index = (i + p).to(tl.int64) * C + c
        d = tl.load(means + index, mask=mask, other=0.0) - mu + tl.load(rests + index, mask=mask, other=0.0)
        deviations += tl.load(squares + index, mask=mask, other=0.0) + count * d * d
    tl.store(mean + c, mu.to(tl.float32), mask=c < C)
    tl.store(var + c, (tl.sum(deviations, 0)[None, :] / total).to(tl.float32), mask=c < C)


@triton.jit
def _apply(
    x, weight, bias, mean, var, residual, y, eps, N, C, S, splits, chunk,
    RELU: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    program = tl.num_programs(0) - 1 - tl.program_id(0)  # backwards: the cache holds what was read last
    blocks = (C + BLOCK_C - 1) // BLOCK_C
    _, c0, _, length, base = place(program, blocks, BLOCK_C, C, S, splits, chunk, LAST)
    lane, s, offsets = lanes(C, S, BLOCK_C, BLOCK_S, LAST)
    valid = c0 + lane < C
    mu, a, b = _affine(weight, bias, mean, var, eps, c0 + lane, valid)
    for i in range(0, length, BLOCK_S):
        mask = valid[:, None] & (s < length - i)
        here = base + (i * C if LAST else i)
        z = (read(x, here, offsets, mask) - mu) * a + b
        if residual is not None:
            z += read(residual, here, offsets, mask)
        if RELU:
            z = tl.where(z < 0, 0.0, z)
        write(y, here, offsets, z, mask)


# ---- gradients -------------------------------------------------------------------------------------------------------


@triton.jit
def _gradient_sums(
    dy, x, y, weight, bias, mean, var, sums, products, added, dx, eps, N, C, S, splits, chunk,
    RELU: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Sums over a chunk of the gradient before the ReLU, alone and times the deviation from the mean.

    The mask comes from y where there is one; then the masked gradient is written to `added`. With `dx` (given
    statistics) that is written too.
    """
    blocks = (C + BLOCK_C - 1) // BLOCK_C
    n, c0, split, length, base = place(tl.program_id(0), blocks, BLOCK_C, C, S, splits, chunk, LAST)
    lane, s, offsets = lanes(C, S, BLOCK_C, BLOCK_S, LAST)
    valid = c0 + lane < C
    mu, a, b = _affine(weight, bias, mean, var, eps, c0 + lane, valid)
    s1 = tl.zeros((BLOCK_C, BLOCK_S), tl.float32)
    s2 = tl.zeros((BLOCK_C, BLOCK_S), tl.float32)
    for i in range(0, length, BLOCK_S):
        mask = valid[:, None] & (s < length - i)
        here = base + (i * C if LAST else i)
        d = read(x, here, offsets, mask) - mu
        dz = read(dy, here, offsets, mask)
        if y is not None:
            dz = _passed(read(y, here, offsets, mask), dz)
            write(added, here, offsets, dz, mask)
        elif RELU:
            dz = _passed(d * a + b, dz)
        if dx is not None:
            write(dx, here, offsets, dz * a, mask)
        s1 += dz
        s2 += dz * d
    index = ((n * splits + split) * C + c0 + lane)[:, None]
    tl.store(sums + index, tl.sum(s1, 1)[:, None], mask=valid[:, None])
    tl.store(products + index, tl.sum(s2, 1)[:, None], mask=valid[:, None])


@triton.jit
def _merge_sums(
    sums, products, weight, var, flat, sloped, dweight, dbias, eps, parts, N, C, S, splits, chunk,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of channels, and what dx subtracts: `flat`, and `sloped` times the deviation from the mean."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    p = tl.arange(0, BLOCK_P)[:, None]
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float64)
    product = tl.zeros((BLOCK_P, BLOCK_C), tl.float64)
    for i in range(0, parts, BLOCK_P):
        mask = (i + p < parts) & (c < C)
        index = (i + p).to(tl.int64) * C + c
        total += tl.load(sums + index, mask=mask, other=0.0)
        product += tl.load(products + index, mask=mask, other=0.0)
    s1, s2 = tl.sum(total, 0)[None, :], tl.sum(product, 0)[None, :]
    w = tl.load(weight + c, mask=c < C, other=0.0).to(tl.float64)
    rs = 1.0 / tl.sqrt(tl.load(var + c, mask=c < C, other=1.0).to(tl.float64) + eps)
    mean_factor = w * rs / (1.0 * N * S)
    tl.store(flat + c, (mean_factor * s1).to(tl.float32), mask=c < C)
    tl.store(sloped + c, (mean_factor * rs * rs * s2).to(tl.float32), mask=c < C)
    tl.store(dweight + c, (s2 * rs).to(tl.float32), mask=c < C)
    tl.store(dbias + c, s1.to(tl.float32), mask=c < C)


@triton.jit
def _apply_gradient(
    dy, x, weight, bias, mean, var, flat, sloped, dx, eps, N, C, S, splits, chunk,
    RELU: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    program = tl.num_programs(0) - 1 - tl.program_id(0)  # as in _apply
    blocks = (C + BLOCK_C - 1) // BLOCK_C
    _, c0, _, length, base = place(program, blocks, BLOCK_C, C, S, splits, chunk, LAST)
    lane, s, offsets = lanes(C, S, BLOCK_C, BLOCK_S, LAST)
    c = c0 + lane
    valid = c < C
    mu, a, b = _affine(weight, bias, mean, var, eps, c, valid)
    t, q = column(flat, c, valid), column(sloped, c, valid)
    for i in range(0, length, BLOCK_S):
        mask = valid[:, None] & (s < length - i)
        here = base + (i * C if LAST else i)
        d = read(x, here, offsets, mask) - mu
        dz = read(dy, here, offsets, mask)
        if RELU:
            dz = _passed(d * a + b, dz)
        write(dx, here, offsets, dz * a - t - d * q, mask)
