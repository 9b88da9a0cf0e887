"""Triton kernels that read whole tensors: twice forward, twice backward."""
# ruff: noqa: N803 - kernels name sizes as shapes are written

from __future__ import annotations

import triton
import triton.language as tl

from monai_ext.ops.tiles import column, lanes, place, read, write


@triton.jit
def moments(
    x, means, squares, C, S, splits, chunk,
    SQUARES: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of a chunk; every lane of the tile keeps its own until the end (Welford)."""
    blocks = (C + BLOCK_C - 1) // BLOCK_C
    n, c0, split, length, base = place(tl.program_id(0), blocks, BLOCK_C, C, S, splits, chunk, LAST)
    lane, s, offsets = lanes(C, S, BLOCK_C, BLOCK_S, LAST)
    c = c0 + lane
    valid = c < C
    mu = tl.zeros((BLOCK_C, BLOCK_S), tl.float32)
    m2 = tl.zeros((BLOCK_C, BLOCK_S), tl.float32)
    for i in range(0, length, BLOCK_S):
        mask = valid[:, None] & (s < length - i)
        value = read(x, base + (i * C if LAST else i), offsets, mask)
        d = tl.where(mask, value - mu, 0.0)
        mu += d * (1.0 / (i // BLOCK_S + 1))
        if SQUARES:
            m2 += d * (value - mu)
    counts = tl.maximum((length - s + BLOCK_S - 1) // BLOCK_S, 0).to(tl.float32)
    total = length.to(tl.float32)
    whole = (tl.sum(counts * mu, 1) / total)[:, None]
    mu -= whole
    rest = (tl.sum(counts * mu, 1) / total)[:, None]  # what rounding left out of the mean
    index = ((n * C + c) * splits + split)[:, None]
    tl.store(means + index, whole + rest, mask=valid[:, None])
    if SQUARES:
        mu -= rest
        tl.store(squares + index, tl.sum(m2 + counts * mu * mu, 1)[:, None], mask=valid[:, None])


@triton.jit
def apply(
    x, residual, mean, scale, offset, y, C, S, splits, chunk,
    RELU: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    program = tl.num_programs(0) - 1 - tl.program_id(0)  # backwards: the cache holds what was read last
    blocks = (C + BLOCK_C - 1) // BLOCK_C
    n, c0, _, length, base = place(program, blocks, BLOCK_C, C, S, splits, chunk, LAST)
    lane, s, offsets = lanes(C, S, BLOCK_C, BLOCK_S, LAST)
    c = c0 + lane
    valid = c < C
    mu, a, b = column(mean, c, valid), column(scale, n * C + c, valid), column(offset, n * C + c, valid)
    for i in range(0, length, BLOCK_S):
        mask = valid[:, None] & (s < length - i)
        here = base + (i * C if LAST else i)
        z = (read(x, here, offsets, mask) - mu) * a + b
        if residual is not None:
            z += read(residual, here, offsets, mask)
        if RELU:
            z = tl.where(z < 0, 0.0, z)
        write(y, here, offsets, z, mask)


@triton.jit
def gradient_sums(
    dy, y, x, mean, added, sums, products, C, S, splits, chunk,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """dy where y is positive, and its sums over a chunk, alone and times x - mean."""
    blocks = (C + BLOCK_C - 1) // BLOCK_C
    n, c0, split, length, base = place(tl.program_id(0), blocks, BLOCK_C, C, S, splits, chunk, LAST)
    lane, s, offsets = lanes(C, S, BLOCK_C, BLOCK_S, LAST)
    c = c0 + lane
    valid = c < C
    mu = column(mean, c, valid)
    s1 = tl.zeros((BLOCK_C, BLOCK_S), tl.float32)
    s2 = tl.zeros((BLOCK_C, BLOCK_S), tl.float32)
    for i in range(0, length, BLOCK_S):
        mask = valid[:, None] & (s < length - i)
        here = base + (i * C if LAST else i)
        g = read(dy, here, offsets, mask)
        if y is not None:
            g = tl.where(read(y, here, offsets, mask) <= 0, 0.0, g)
            write(added, here, offsets, g, mask)
        s1 += g
        s2 += g * (read(x, here, offsets, mask) - mu)
    index = ((n * C + c) * splits + split)[:, None]
    tl.store(sums + index, tl.sum(s1, 1)[:, None], mask=valid[:, None])
    tl.store(products + index, tl.sum(s2, 1)[:, None], mask=valid[:, None])


@triton.jit
def apply_gradient(
    dv, x, mean, scale, flat, slope, dx, C, S, splits, chunk,
    SLOPE: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    program = tl.num_programs(0) - 1 - tl.program_id(0)  # as in `apply`
    blocks = (C + BLOCK_C - 1) // BLOCK_C
    n, c0, _, length, base = place(program, blocks, BLOCK_C, C, S, splits, chunk, LAST)
    lane, s, offsets = lanes(C, S, BLOCK_C, BLOCK_S, LAST)
    c = c0 + lane
    valid = c < C
    mu, a = column(mean, c, valid), column(scale, n * C + c, valid)
    b, q = column(flat, n * C + c, valid), column(slope, c, valid)
    for i in range(0, length, BLOCK_S):
        mask = valid[:, None] & (s < length - i)
        here = base + (i * C if LAST else i)
        value = read(dv, here, offsets, mask) * a + b
        if SLOPE:
            value += (read(x, here, offsets, mask) - mu) * q
        write(dx, here, offsets, value, mask)
