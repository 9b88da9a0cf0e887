"""Triton kernels that read whole tensors: twice forward, twice backward."""
# ruff: noqa: N803 - kernels name sizes as shapes are written

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _place(program, C, S, splits, chunk, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr):
    """Sample, channels and chunk of a program, how many positions that has, the offset of its first value, and of the
    others from there. The grid is `[N, blocks, splits]`; offsets of a tensor take 64 bits, those within a tile 32."""
    blocks = (C + BLOCK_C - 1) // BLOCK_C
    split = program % splits
    c0 = program // splits % blocks * BLOCK_C
    n = (program // splits // blocks).to(tl.int64)
    first = split.to(tl.int64) * chunk
    base = (n * S + first) * C + c0 if LAST else (n * C + c0) * S + first
    lane, s = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_S)[None, :]
    offsets = lane[:, None] + s * C if LAST else lane[:, None] * S + s
    return n, c0 + lane, split, tl.minimum(S - first, chunk), base, s, offsets


@triton.jit
def _read(pointer, base, offsets, mask):
    return tl.load(pointer + base + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _write(pointer, base, offsets, value, mask):
    tl.store(pointer + base + offsets, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _column(pointer, index, valid):
    """`[BLOCK_C, 1]` of a vector; zeros without one."""
    if pointer is None:
        return tl.zeros_like(index)[:, None].to(tl.float32)
    else:
        return tl.load(pointer + index, mask=valid, other=0.0)[:, None]


@triton.jit
def moments(
    x, means, squares, C, S, splits, chunk,
    SQUARES: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of a chunk; every lane of the tile keeps its own until the end (Welford)."""
    n, c, split, length, base, s, offsets = _place(tl.program_id(0), C, S, splits, chunk, BLOCK_C, BLOCK_S, LAST)
    valid = c < C
    mu = tl.zeros((BLOCK_C, BLOCK_S), tl.float32)
    m2 = tl.zeros((BLOCK_C, BLOCK_S), tl.float32)
    for i in range(0, length, BLOCK_S):
        mask = valid[:, None] & (s < length - i)
        value = _read(x, base + (i * C if LAST else i), offsets, mask)
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
    n, c, _, length, base, s, offsets = _place(program, C, S, splits, chunk, BLOCK_C, BLOCK_S, LAST)
    valid = c < C
    mu, a, b = _column(mean, c, valid), _column(scale, n * C + c, valid), _column(offset, n * C + c, valid)
    for i in range(0, length, BLOCK_S):
        mask = valid[:, None] & (s < length - i)
        here = base + (i * C if LAST else i)
        z = (_read(x, here, offsets, mask) - mu) * a + b
        if residual is not None:
            z += _read(residual, here, offsets, mask)
        if RELU:
            z = tl.where(z < 0, 0.0, z)
        _write(y, here, offsets, z, mask)


@triton.jit
def gradient_sums(
    dy, y, x, mean, added, sums, products, C, S, splits, chunk,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """dy where y is positive, and its sums over a chunk, alone and times x - mean."""
    n, c, split, length, base, s, offsets = _place(tl.program_id(0), C, S, splits, chunk, BLOCK_C, BLOCK_S, LAST)
    valid = c < C
    mu = _column(mean, c, valid)
    s1 = tl.zeros((BLOCK_C, BLOCK_S), tl.float32)
    s2 = tl.zeros((BLOCK_C, BLOCK_S), tl.float32)
    for i in range(0, length, BLOCK_S):
        mask = valid[:, None] & (s < length - i)
        here = base + (i * C if LAST else i)
        g = _read(dy, here, offsets, mask)
        if y is not None:
            g = tl.where(_read(y, here, offsets, mask) <= 0, 0.0, g)
            _write(added, here, offsets, g, mask)
        s1 += g
        s2 += g * (_read(x, here, offsets, mask) - mu)
    index = ((n * C + c) * splits + split)[:, None]
    tl.store(sums + index, tl.sum(s1, 1)[:, None], mask=valid[:, None])
    tl.store(products + index, tl.sum(s2, 1)[:, None], mask=valid[:, None])


@triton.jit
def apply_gradient(
    dv, x, mean, scale, flat, slope, dx, C, S, splits, chunk,
    SLOPE: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    program = tl.num_programs(0) - 1 - tl.program_id(0)  # as in `apply`
    n, c, _, length, base, s, offsets = _place(program, C, S, splits, chunk, BLOCK_C, BLOCK_S, LAST)
    valid = c < C
    mu, a = _column(mean, c, valid), _column(scale, n * C + c, valid)
    b, q = _column(flat, n * C + c, valid), _column(slope, c, valid)
    for i in range(0, length, BLOCK_S):
        mask = valid[:, None] & (s < length - i)
        here = base + (i * C if LAST else i)
        value = _read(dv, here, offsets, mask) * a + b
        if SLOPE:
            value += (_read(x, here, offsets, mask) - mu) * q
        _write(dx, here, offsets, value, mask)
