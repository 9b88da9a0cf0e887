"""Triton form: every program takes a run of voxels of one sample; its sums are added up by torch in float64."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import triton
import triton.language as tl

from monai_ext.ops.forms import on_device_of

_TILE = 2048  # values of a block: classes, rounded up to a power of two, times voxels
_PROGRAMS = 1024  # of a sample at most: enough to fill a device, few enough to sum cheaply
_WARPS = 4


@triton.jit
def _read(
    logits, labels, sample, voxel, voxels, stride_k, stride_s, ignored,
    ignore: tl.constexpr, pad: tl.constexpr, classes: tl.constexpr, padded: tl.constexpr,
):  # fmt: skip
    """Block of logits `[padded, block]`, its labels (-1 ignored, -2 without a class) and its offsets in memory."""
    k = tl.arange(0, padded)
    within = voxel < voxels
    where = sample * classes * voxels + k.to(tl.int64)[:, None] * stride_k + voxel[None, :] * stride_s
    z = tl.load(logits + where, mask=(k < classes)[:, None] & within[None, :], other=0.0).to(tl.float32)
    z = tl.where((k < classes)[:, None], z, pad)
    label = tl.load(labels + sample * voxels + voxel, mask=within, other=0).to(tl.int64)
    y = tl.where((label >= 0) & (label < classes), label, -2)
    if ignore:
        y = tl.where(label == ignored, -1, y)
    return z, tl.where(within, y, -1).to(tl.int32), where


@triton.jit
def _power(x, exponent: tl.constexpr):
    """x^exponent of x in [0, 1], exponent >= 0."""
    if exponent == 0.0:
        return tl.full(x.shape, 1.0, tl.float32)
    elif exponent == 1.0:
        return x
    elif exponent == 2.0:
        return x * x
    else:
        # x itself where it is 0, whose logarithm is not finite, or NaN
        return tl.where(x > 0.0, tl.exp(exponent * tl.log(tl.where(x > 0.0, x, 1.0))), x)


@triton.jit
def _softmax(z):
    """z minus its maximum, softmax, logarithm of the softmax' sum."""
    d = z - tl.max(z, 0)[None, :]
    e = tl.exp(d)
    total = tl.sum(e, 0)
    return d, e / total[None, :], tl.log(total)


@triton.jit
def _sigmoid(z):
    """sigmoid(z) and sigmoid(-z) without cancellation, and minus their logarithms."""
    e = tl.exp(-tl.abs(z))
    one = 1 / (1 + e)
    # log(1 + e) = 2 artanh(e / (2 + e)), precise for tiny e as well; its series at 1 / 3 or less
    s = e / (2 + e)
    u = s * s
    series = 1 + u * (1 / 3 + u * (1 / 5 + u * (1 / 7 + u * (1 / 9 + u * (1 / 11 + u * (1 / 13 + u * (1 / 15)))))))
    softplus = 2 * s * series
    up = tl.where(z < 0, -z, 0.0) + softplus
    down = tl.where(z > 0, z, 0.0) + softplus
    return tl.where(z < 0, e * one, one), tl.where(z < 0, one, e * one), up, down


@triton.jit
def _forward(
    logits, labels, weights, partial, voxels, stride_k, stride_s, ignored, steps, smoothing,
    ignore: tl.constexpr, is_sigmoid: tl.constexpr, gamma: tl.constexpr, smooth: tl.constexpr,
    pad: tl.constexpr, classes: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    program, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    k = tl.arange(0, padded)
    w = tl.load(weights + k, mask=k < classes, other=0.0)
    intersection = tl.zeros([padded, block], tl.float32)
    predicted = tl.zeros([padded, block], tl.float32)
    present = tl.zeros([padded, block], tl.float32)
    terms = tl.zeros([block], tl.float32)
    total_weight = tl.zeros([block], tl.float32)
    for step in range(steps):
        voxel = (program.to(tl.int64) * steps + step) * block + tl.arange(0, block)
        z, y, _ = _read(
            logits, labels, sample, voxel, voxels, stride_k, stride_s, ignored, ignore, pad, classes, padded
        )
        counts = y >= 0
        own = k[:, None] == y[None, :]
        real = counts[None, :] & (k < classes)[:, None]
        if is_sigmoid:
            p, q, up, down = _sigmoid(z)
            target = tl.where(own, 1 - smoothing / 2, smoothing / 2)
            if gamma != 0.0:
                up *= _power(q, gamma)
                down *= _power(p, gamma)
            term = w[:, None] * (target * up + (1 - target) * down)
            terms += tl.sum(tl.where(real, term, 0.0), 0)
            total_weight += tl.where(counts, tl.sum(w, 0), 0.0)
        else:
            d, p, log_sum = _softmax(z)
            own_d = tl.sum(tl.where(own, d, 0.0), 0)
            weight = tl.sum(tl.where(own, w[:, None], 0.0), 0)
            term = weight * (log_sum - own_d)
            if gamma != 0.0:
                own_p = tl.sum(tl.where(own, p, 0.0), 0)
                term *= _power(tl.maximum(1 - own_p, 0.0), gamma)
            total_weight += weight
            if smooth:
                soft = w[:, None] * tl.where(real, log_sum[None, :] - d, 0.0)
                if gamma != 0.0:
                    soft *= _power(tl.maximum(1 - p, 0.0), gamma)
                term = (1 - smoothing) * term + smoothing / classes * tl.sum(soft, 0)
            terms += tl.where(counts, term, 0.0)
        terms = tl.where(y == -2, float("nan"), terms)
        predicted += tl.where(real, p, 0.0)
        intersection += tl.where(own, p, 0.0)
        present += own.to(tl.float32)
    out = partial + (sample * tl.num_programs(0) + program) * (3 * classes + 2)
    tl.store(out + k, tl.sum(intersection, 1), mask=k < classes)
    tl.store(out + classes + k, tl.sum(predicted, 1), mask=k < classes)
    tl.store(out + 2 * classes + k, tl.sum(present, 1), mask=k < classes)
    tl.store(out + 3 * classes, tl.sum(terms, 0))
    tl.store(out + 3 * classes + 1, tl.sum(total_weight, 0))


@triton.jit
def _slope(p, q, log_p, gamma: tl.constexpr):
    """Derivative of (1 - p)^gamma log p with respect to log p; q is 1 - p."""
    if gamma == 0.0:
        return tl.full(p.shape, 1.0, tl.float32)
    else:
        return _power(q, gamma - 1.0) * (q - gamma * p * log_p)


@triton.jit
def _backward(
    logits, labels, weights, d_intersection, d_predicted, d_terms, result, voxels, stride_k, stride_s, ignored, steps,
    smoothing, ignore: tl.constexpr, is_sigmoid: tl.constexpr, gamma: tl.constexpr, smooth: tl.constexpr,
    pad: tl.constexpr, classes: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    program, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    k = tl.arange(0, padded)
    w = tl.load(weights + k, mask=k < classes, other=0.0)
    at_own = tl.load(d_intersection + sample * classes + k, mask=k < classes, other=0.0)
    at_all = tl.load(d_predicted + sample * classes + k, mask=k < classes, other=0.0)
    g = tl.load(d_terms)
    for step in range(steps):
        voxel = (program.to(tl.int64) * steps + step) * block + tl.arange(0, block)
        z, y, where = _read(
            logits, labels, sample, voxel, voxels, stride_k, stride_s, ignored, ignore, pad, classes, padded
        )
        own = k[:, None] == y[None, :]
        if is_sigmoid:
            p, q, up, down = _sigmoid(z)
            target = tl.where(own, 1 - smoothing / 2, smoothing / 2)
            if gamma == 0.0:
                up, down = q, p
            else:
                up = _power(q, gamma) * (gamma * p * up + q)
                down = _power(p, gamma) * (gamma * q * down + p)
            dz = (at_all[:, None] + tl.where(own, at_own[:, None], 0.0)) * p * q
            dz += g * w[:, None] * ((1 - target) * down - target * up)
        else:
            d, p, log_sum = _softmax(z)
            own_p = tl.sum(tl.where(own, p, 0.0), 0)
            own_d = tl.sum(tl.where(own, d, 0.0), 0)
            # derivative with respect to log p of the voxel's class
            log_slope = tl.sum(tl.where(own, w[:, None], 0.0), 0)
            log_slope *= -g * _slope(own_p, tl.maximum(1 - own_p, 0.0), own_d - log_sum, gamma)
            if smooth:
                log_slope *= 1 - smoothing
            linear = own_p * tl.sum(tl.where(own, at_own[:, None], 0.0), 0) + log_slope
            mean = tl.sum(at_all[:, None] * p, 0) + linear
            if smooth:
                log_p = tl.where((k < classes)[:, None], d - log_sum[None, :], 0.0)
                soft = w[:, None] * _slope(p, tl.maximum(1 - p, 0.0), log_p, gamma) * (-g * smoothing / classes)
                mean += tl.sum(soft, 0)
            dz = p * (at_all[:, None] - mean[None, :]) + tl.where(own, linear[None, :], 0.0)
            if smooth:
                dz += soft
        dz = tl.where((y >= 0)[None, :], dz, 0.0)
        written = (k < classes)[:, None] & (voxel < voxels)[None, :]
        tl.store(result + where, dz.to(result.dtype.element_ty), mask=written)


def sums(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor | None,
    ignore_index: int | None,
    activation: str,
    focal_gamma: float,
    label_smoothing: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Intersection, predicted, present and terms; logits contiguous or channels last. A wrong label makes terms NaN."""
    batch, classes = logits.shape[:2]
    labels, weights = labels.contiguous(), _weights(class_weights, logits)
    grid, arguments = _launch(logits, ignore_index, activation, focal_gamma, label_smoothing)
    partial = logits.new_empty((batch, grid[0], 3 * classes + 2), dtype=torch.float32)
    if partial.numel():
        with on_device_of(logits):
            _forward[grid](logits, labels, weights, partial, **arguments)
    total = partial.sum(1, dtype=torch.float64)
    a, b, c = (part.float().contiguous() for part in total[:, :-2].split(classes, 1))
    return a, b, c, total[:, -2:].sum(0).float()


def backward(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor | None,
    intersection: torch.Tensor,
    predicted: torch.Tensor,
    terms: torch.Tensor,
    ignore_index: int | None,
    activation: str,
    focal_gamma: float,
    label_smoothing: float,
) -> torch.Tensor:
    """Gradient of the logits, in their type and layout, from the float32 gradients of the sums."""
    labels, weights = labels.contiguous(), _weights(class_weights, logits)
    grid, arguments = _launch(logits, ignore_index, activation, focal_gamma, label_smoothing)
    result = torch.empty_like(logits)
    if result.numel():
        with on_device_of(logits):
            _backward[grid](logits, labels, weights, intersection, predicted, terms, result, **arguments)
    return result


def _weights(class_weights: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor:
    if class_weights is None:
        return torch.ones(logits.shape[1], device=logits.device)
    return class_weights.float().contiguous()


def _launch(
    logits: torch.Tensor, ignore_index: int | None, activation: str, focal_gamma: float, label_smoothing: float
) -> tuple[tuple[int, int], dict[str, Any]]:
    """Programs along the voxels and over the samples, and what both kernels take."""
    batch, classes = logits.shape[:2]
    voxels = prod(logits.shape[2:])
    padded = triton.next_power_of_2(classes)
    block = max(16, _TILE // padded)
    steps = max(1, triton.cdiv(voxels, block * _PROGRAMS))
    last = not logits.is_contiguous()
    arguments = {
        "voxels": voxels,
        "stride_k": 1 if last else voxels,
        "stride_s": classes if last else 1,
        "ignored": ignore_index or 0,
        "steps": steps,
        "smoothing": float(label_smoothing),
        "ignore": ignore_index is not None,
        "is_sigmoid": activation == "sigmoid",
        "gamma": float(focal_gamma),
        "smooth": label_smoothing != 0,
        "pad": 0.0 if activation == "sigmoid" else -torch.inf,
        "classes": classes,
        "padded": padded,
        "block": block,
        "num_warps": _WARPS,
    }
    return (triton.cdiv(voxels, block * steps), batch), arguments
