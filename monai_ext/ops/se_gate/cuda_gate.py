"""Triton kernels between the passes: chunks are merged, the layers of the gate computed, and their gradients."""
# ruff: noqa: N803 - kernels name sizes as shapes are written

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _norm_of(weight, bias, var, c, valid, eps):
    """What the norm multiplies by, what it adds, and its reciprocal standard deviation; of channels `c`."""
    if weight is None:
        one = tl.full(c.shape, 1.0, tl.float32)
        return one, one * 0.0, one
    else:
        rstd = 1.0 / tl.sqrt(tl.load(var + c, mask=valid, other=1.0) + eps)
        return tl.load(weight + c, mask=valid, other=0.0) * rstd, tl.load(bias + c, mask=valid, other=0.0), rstd


@triton.jit
def merge_moments(
    means, squares, mean, var, centre, N, C, S, splits, chunk,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, TRAINING: tl.constexpr,
):  # fmt: skip
    """One channel: its mean and variance from chunks of all samples; and means of samples less that, `[N, C]`."""
    c = tl.program_id(0)
    k = tl.arange(0, BLOCK_K)[None, :]
    mu = tl.zeros((1,), tl.float64)
    for i in range(0, N if TRAINING else 0, BLOCK_N):
        n = i + tl.arange(0, BLOCK_N)
        mu += tl.sum(_mean_of_samples(means, n, c, k, N, C, S, splits, chunk, BLOCK_N, BLOCK_K), 0)
    mu = mu / N
    if TRAINING:
        rounded = mu.to(tl.float32)
        tl.store(mean + c + tl.arange(0, 1), rounded)
    else:
        rounded = tl.zeros((1,), tl.float32)
        if mean is not None:
            rounded = tl.load(mean + c + tl.arange(0, 1))
    for i in range(0, N, BLOCK_N):
        n = i + tl.arange(0, BLOCK_N)
        sample = _mean_of_samples(means, n, c, k, N, C, S, splits, chunk, BLOCK_N, BLOCK_K)
        tl.store(centre + n.to(tl.int64) * C + c, (sample - rounded.to(tl.float64)).to(tl.float32), mask=n < N)
    if TRAINING:
        deviations = tl.zeros((BLOCK_N, BLOCK_K), tl.float64)
        for i in range(0, N, BLOCK_N):
            n = i + tl.arange(0, BLOCK_N)
            for j in range(0, splits, BLOCK_K):
                mask = (n < N)[:, None] & (j + k < splits)
                index = (n[:, None].to(tl.int64) * C + c) * splits + j + k
                count = tl.where(mask, tl.minimum(S - (j + k) * chunk, chunk), 0).to(tl.float64)
                d = tl.load(means + index, mask=mask, other=0.0) - mu
                deviations += tl.load(squares + index, mask=mask, other=0.0) + count * d * d
        second = tl.sum(tl.sum(deviations, 1), 0) / N / S
        tl.store(var + c, second.to(tl.float32))


@triton.jit
def _mean_of_samples(
    means, n, c, k, N, C, S, splits, chunk, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """Means `[BLOCK_N]` of samples over their chunks."""
    total = tl.zeros((BLOCK_N, BLOCK_K), tl.float64)
    for j in range(0, splits, BLOCK_K):
        mask = (n < N)[:, None] & (j + k < splits)
        count = tl.where(mask, tl.minimum(S - (j + k) * chunk, chunk), 0).to(tl.float64)
        index = (n[:, None].to(tl.int64) * C + c) * splits + j + k
        total += count * tl.load(means + index, mask=mask, other=0.0)
    return tl.sum(total, 1) / S


@triton.jit
def squeeze(centre, weight, bias, var, squeezed, N, C, eps, BLOCK_N: tl.constexpr, TRAINING: tl.constexpr):
    """Mean of the normalised values over the positions, of one channel."""
    c = tl.program_id(0)
    channel = c + tl.arange(0, 1)
    a, b, _ = _norm_of(weight, bias, var, channel, channel >= 0, eps)
    lost = _lost(centre, c, N, C, BLOCK_N, TRAINING)
    for i in range(0, N, BLOCK_N):
        n = i + tl.arange(0, BLOCK_N)
        value = tl.load(centre + n.to(tl.int64) * C + c, mask=n < N, other=0.0)
        tl.store(squeezed + n.to(tl.int64) * C + c, a * (value - lost) + b, mask=n < N)


@triton.jit
def _lost(centre, c, N, C, BLOCK_N: tl.constexpr, TRAINING: tl.constexpr):
    """What rounding took from the batch mean: the centres would add up to zero. `[1]`."""
    total = tl.zeros((BLOCK_N,), tl.float64)
    for i in range(0, N if TRAINING else 0, BLOCK_N):
        n = i + tl.arange(0, BLOCK_N)
        total += tl.load(centre + n.to(tl.int64) * C + c, mask=n < N, other=0.0)
    return (tl.zeros((1,), tl.float64) + tl.sum(total, 0) / N).to(tl.float32)


@triton.jit
def hidden_values(squeezed, w1, b1, hidden, C, H, BLOCK_C: tl.constexpr, BLOCK_H: tl.constexpr):
    blocks = (H + BLOCK_H - 1) // BLOCK_H
    n = (tl.program_id(0) // blocks).to(tl.int64)
    h = tl.program_id(0) % blocks * BLOCK_H + tl.arange(0, BLOCK_H)
    total = tl.zeros((BLOCK_H, BLOCK_C), tl.float32)
    for i in range(0, C, BLOCK_C):
        c = i + tl.arange(0, BLOCK_C)
        w = tl.load(w1 + h[:, None] * C + c[None, :], mask=(h < H)[:, None] & (c < C)[None, :], other=0.0)
        total += w * tl.load(squeezed + n * C + c, mask=c < C, other=0.0)[None, :]
    z = tl.sum(total, 1) + tl.load(b1 + h, mask=h < H, other=0.0)
    tl.store(hidden + n * H + h, tl.where(z < 0, 0.0, z), mask=h < H)  # a NaN stays one


@triton.jit
def gate_values(
    hidden, w2, b2, squeezed, centre, weight, bias, var, gate, scale, offset, C, H, eps,
    BLOCK_C: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """The gate, and what `apply` multiplies and adds."""
    blocks = (C + BLOCK_C - 1) // BLOCK_C
    n = (tl.program_id(0) // blocks).to(tl.int64)
    c = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    valid = c < C
    total = tl.zeros((BLOCK_C, BLOCK_H), tl.float32)
    for i in range(0, H, BLOCK_H):
        h = i + tl.arange(0, BLOCK_H)
        w = tl.load(w2 + c[:, None] * H + h[None, :], mask=valid[:, None] & (h < H)[None, :], other=0.0)
        total += w * tl.load(hidden + n * H + h, mask=h < H, other=0.0)[None, :]
    z = tl.sum(total, 1) + tl.load(b2 + c, mask=valid, other=0.0)
    s = 1.0 / (1.0 + tl.exp(-z))
    a, _, _ = _norm_of(weight, bias, var, c, valid, eps)
    at = n * C + c
    # bias less what rounding took from the mean: what the squeeze adds to a * centre
    added = tl.load(squeezed + at, mask=valid, other=0.0) - a * tl.load(centre + at, mask=valid, other=0.0)
    tl.store(gate + at, s, mask=valid)
    tl.store(scale + at, a * s, mask=valid)
    tl.store(offset + at, added * s, mask=valid)


@triton.jit
def merge_sums(
    sums, products, centre, gate, weight, bias, var, squeezed, dz, total, product, lost, N, C, splits, eps,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, TRAINING: tl.constexpr,
):  # fmt: skip
    """One channel: sums over the positions of every sample, squeezed values, and the gradient before the sigmoid."""
    c = tl.program_id(0)
    channel = c + tl.arange(0, 1)
    a, b, _ = _norm_of(weight, bias, var, channel, channel >= 0, eps)
    missing = _lost(centre, c, N, C, BLOCK_N, TRAINING)
    tl.store(lost + channel, missing)
    k = tl.arange(0, BLOCK_K)[None, :]
    for i in range(0, N, BLOCK_N):
        n = i + tl.arange(0, BLOCK_N)
        s1 = tl.zeros((BLOCK_N, BLOCK_K), tl.float64)
        s2 = tl.zeros((BLOCK_N, BLOCK_K), tl.float64)
        for j in range(0, splits, BLOCK_K):
            mask = (n < N)[:, None] & (j + k < splits)
            index = (n[:, None].to(tl.int64) * C + c) * splits + j + k
            s1 += tl.load(sums + index, mask=mask, other=0.0)
            s2 += tl.load(products + index, mask=mask, other=0.0)
        at = n.to(tl.int64) * C + c
        valid = n < N
        one = tl.sum(s1, 1)
        other = tl.sum(s2, 1) - missing.to(tl.float64) * one
        s = tl.load(gate + at, mask=valid, other=0.0)
        value = a * (tl.load(centre + at, mask=valid, other=0.0) - missing) + b
        tl.store(squeezed + at, value, mask=valid)
        tl.store(dz + at, ((a * other + b * one) * s * (1.0 - s)).to(tl.float32), mask=valid)
        tl.store(total + at, one.to(tl.float32), mask=valid)
        tl.store(product + at, other.to(tl.float32), mask=valid)


@triton.jit
def hidden_gradient(dz, w2, hidden, dhidden, C, H, BLOCK_C: tl.constexpr, BLOCK_H: tl.constexpr):
    blocks = (H + BLOCK_H - 1) // BLOCK_H
    n = (tl.program_id(0) // blocks).to(tl.int64)
    h = tl.program_id(0) % blocks * BLOCK_H + tl.arange(0, BLOCK_H)
    total = tl.zeros((BLOCK_C, BLOCK_H), tl.float32)
    for i in range(0, C, BLOCK_C):
        c = i + tl.arange(0, BLOCK_C)
        w = tl.load(w2 + c[:, None] * H + h[None, :], mask=(c < C)[:, None] & (h < H)[None, :], other=0.0)
        total += w * tl.load(dz + n * C + c, mask=c < C, other=0.0)[:, None]
    value = tl.load(hidden + n * H + h, mask=h < H, other=0.0)
    tl.store(dhidden + n * H + h, tl.where(value <= 0, 0.0, tl.sum(total, 0)), mask=h < H)


@triton.jit
def squeezed_gradient(dhidden, w1, dsqueezed, C, H, BLOCK_C: tl.constexpr, BLOCK_H: tl.constexpr):
    blocks = (C + BLOCK_C - 1) // BLOCK_C
    n = (tl.program_id(0) // blocks).to(tl.int64)
    c = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_H, BLOCK_C), tl.float32)
    for i in range(0, H, BLOCK_H):
        h = i + tl.arange(0, BLOCK_H)
        w = tl.load(w1 + h[:, None] * C + c[None, :], mask=(h < H)[:, None] & (c < C)[None, :], other=0.0)
        total += w * tl.load(dhidden + n * H + h, mask=h < H, other=0.0)[:, None]
    tl.store(dsqueezed + n * C + c, tl.sum(total, 0), mask=c < C)


@triton.jit
def norm_gradient(
    total, product, dsqueezed, centre, gate, lost, weight, bias, var, scale, flat, slope, dweight, dbias,
    N, C, S, eps, BLOCK_N: tl.constexpr, TRAINING: tl.constexpr,
):  # fmt: skip
    """One channel: gradients of the norm, and what `apply_gradient` multiplies and adds."""
    c = tl.program_id(0)
    channel = c + tl.arange(0, 1)
    a, _, rstd = _norm_of(weight, bias, var, channel, channel >= 0, eps)
    missing = tl.load(lost + channel)
    all1 = tl.zeros((BLOCK_N,), tl.float64)
    all2 = tl.zeros((BLOCK_N,), tl.float64)
    for i in range(0, N, BLOCK_N):
        n = i + tl.arange(0, BLOCK_N)
        at, valid = n.to(tl.int64) * C + c, n < N
        s = tl.load(gate + at, mask=valid, other=0.0).to(tl.float64)
        d = tl.load(dsqueezed + at, mask=valid, other=0.0).to(tl.float64)
        centred = tl.where(valid, tl.load(centre + at, mask=valid, other=0.0) - missing, 0.0)
        all1 += s * tl.load(total + at, mask=valid, other=0.0) + d
        all2 += s * tl.load(product + at, mask=valid, other=0.0) + d * centred
    sum1, sum2 = tl.zeros((1,), tl.float64) + tl.sum(all1, 0), tl.zeros((1,), tl.float64) + tl.sum(all2, 0)
    if weight is not None:
        tl.store(dweight + channel, (sum2 * rstd).to(tl.float32))
        tl.store(dbias + channel, sum1.to(tl.float32))
    tilt = tl.zeros((1,), tl.float64)
    level = tl.zeros((1,), tl.float64)
    if TRAINING:
        tilt = -(sum2 / N / S) * rstd * rstd * a  # a * rstd * rstd alone may vanish
        level = a * (sum1 / N / S) + tilt * missing
    tl.store(slope + channel, tilt.to(tl.float32))
    for i in range(0, N, BLOCK_N):
        n = i + tl.arange(0, BLOCK_N)
        at, valid = n.to(tl.int64) * C + c, n < N
        tl.store(scale + at, a * tl.load(gate + at, mask=valid, other=0.0), mask=valid)
        d = tl.load(dsqueezed + at, mask=valid, other=0.0).to(tl.float64)
        tl.store(flat + at, (a * (d / S) - level).to(tl.float32), mask=valid)


@triton.jit
def outer_products(after, before, dw, db, N, I, J, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr):  # noqa: E741
    i = tl.program_id(0) * BLOCK_I + tl.arange(0, BLOCK_I)
    j = tl.program_id(1) * BLOCK_J + tl.arange(0, BLOCK_J)
    total = tl.zeros((BLOCK_I, BLOCK_J), tl.float32)
    sums = tl.zeros((BLOCK_I,), tl.float32)
    for n in range(0, N):
        row = tl.load(after + n * I + i, mask=i < I, other=0.0)
        total += row[:, None] * tl.load(before + n * J + j, mask=j < J, other=0.0)[None, :]
        sums += row
    tl.store(dw + i[:, None].to(tl.int64) * J + j[None, :], total, mask=(i < I)[:, None] & (j < J)[None, :])
    if tl.program_id(1) == 0:
        tl.store(db + i, sums, mask=i < I)
