"""Chains in Triton: one kernel a step, statistics and what follows from them stay on the device.

Sums of a channel are made by blocks in float64 and joined by torch, so that results do not depend on the order in
which blocks run. Logarithm, sine and cosine are polynomials: those of the hardware are too coarse where a normal
number is near 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from monai_ext.ops.intensity_chain import reference
from monai_ext.ops.intensity_chain.axis_maps import (
    TINY,
    coarse_size,
    gaussian_taps,
    linear_places,
    nearest_voxels,
)

Step = Mapping[str, Any]
_BLOCK = 1024
_INF = float("inf")


def intensity_chain(images: torch.Tensor, chains: Sequence[Sequence[Step]]) -> torch.Tensor:
    """As the public function, for float32; float64 and channels of 2^31 voxels or more are left to the reference."""
    if images.dtype != torch.float32 or images[0, 0].numel() >= 2**31:
        return reference.intensity_chain(images, chains)
    images = images.contiguous()
    out = torch.empty_like(images)
    for target, image, chain in zip(out, images, chains, strict=True):
        for step in chain:
            image = _STEPS[step["name"]](image, step)
        target.copy_(image)
    return out


def _launch(kernel: Any, image: torch.Tensor, *arguments: Any) -> torch.Tensor:
    """Run a kernel that maps channels of `image` (`[C, *S]` contiguous) block by block to a new tensor like it."""
    out = torch.empty_like(image)
    voxels = image[0].numel()
    kernel[(triton.cdiv(voxels, _BLOCK), image.shape[0])](image, out, voxels, *arguments, BLOCK=_BLOCK)
    return out


def _noise(image: torch.Tensor, step: Step) -> torch.Tensor:
    # keys as signed numbers: Triton would give a word above 2^31 another type, and compile again
    keys = torch.tensor([step["seed"] & 0xFFFFFFFF, step["seed"] >> 32], dtype=torch.int64).to(torch.int32)
    return _launch(_noise_kernel, image, keys.to(image.device), float(step["std"]))


def _blur(image: torch.Tensor, step: Step) -> torch.Tensor:
    for axis in range(image.ndim - 1):
        taps = [gaussian_taps(row[axis]) for row in step["sigma"]]
        longest = max(map(len, taps))
        if longest == 1:
            continue
        rows = [torch.nn.functional.pad(t, [(longest - len(t)) // 2] * 2) for t in taps]
        size, after = image.shape[axis + 1], image.stride(axis + 1)
        table = torch.stack(rows).to(image.device, torch.float32)
        image = _launch(_blur_kernel, image, table, longest, size, after)
    return image


def _brightness(image: torch.Tensor, step: Step) -> torch.Tensor:
    factor = torch.tensor(step["factor"], dtype=torch.float64, device=image.device)
    return _stretch(image, factor, torch.zeros_like(factor))


def _contrast(image: torch.Tensor, step: Step) -> torch.Tensor:
    factor = torch.tensor(step["factor"], dtype=torch.float64, device=image.device)
    low, high, mean, _ = _statistics(image)
    if step["about"] == "zero":
        lost = torch.isnan(mean).any()  # a NaN in one channel leaves no range for any
        return _stretch(image, factor.where(~lost, torch.nan), torch.zeros_like(factor), low.amin(), high.amax())
    return _stretch(image, factor, mean * (1 - factor), low, high)


def _gamma(image: torch.Tensor, step: Step) -> torch.Tensor:
    exponent = torch.tensor(step["exponent"], dtype=torch.float64, device=image.device)
    low, high, mean, squares = _statistics(image)
    start, sign = (high, -1.0) if step["invert"] else (low, 1.0)
    scale = sign / (high - low).clamp_min(TINY)
    table = torch.stack([start, scale, exponent], 1).float()
    curve = _launch(_power_kernel, image, table)
    if not step["keep_stats"]:
        return _stretch(curve, sign * (high - low), start)
    _, _, new_mean, new_squares = _statistics(curve)
    ratio = sign * squares.sqrt() / new_squares.sqrt().clamp_min(TINY)
    return _stretch(curve, ratio, mean - ratio * new_mean)


def _low_resolution(image: torch.Tensor, step: Step) -> torch.Tensor:
    sizes = [1, *image.shape[1:]][-3:]
    zooms = [([1.0] * 3 + list(row))[-3:] for row in step["zoom"]]
    lefts, rights, weights = [], [], []
    for row in zooms:
        for size, zoom in zip(sizes, row, strict=True):
            coarse = coarse_size(size, zoom)
            left, right, weight = linear_places(size, coarse)
            voxels = nearest_voxels(size, coarse)
            lefts.append(voxels[left])
            rights.append(voxels[right])
            weights.append(weight)
    places = torch.stack([torch.cat(lefts), torch.cat(rights)]).to(image.device, torch.int32)
    weight = torch.cat(weights).to(image.device, torch.float32)
    return _launch(_low_resolution_kernel, image, places[0], places[1], weight, *sizes)


def _stretch(
    image: torch.Tensor,
    factor: torch.Tensor,
    offset: torch.Tensor,
    low: torch.Tensor | float = -_INF,
    high: torch.Tensor | float = _INF,
) -> torch.Tensor:
    """`clamp(factor * x + offset, low, high)`; `[C]` float64 each, or one bound for all."""
    limits = [torch.as_tensor(v, dtype=torch.float64, device=image.device).expand_as(factor) for v in (low, high)]
    return _launch(_stretch_kernel, image, torch.stack([factor, offset, *limits], 1).float())


def _statistics(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Minimum, maximum, mean and summed squared deviations of each channel; `[C]` float64, all NaN where one is."""
    channels, voxels = image.shape[0], image[0].numel()
    blocks = triton.cdiv(voxels, _BLOCK)
    parts = torch.empty(channels, 4, blocks, dtype=torch.float64, device=image.device)
    _statistics_kernel[(blocks, channels)](image, parts, voxels, blocks, BLOCK=_BLOCK)
    low, high, means, squares = parts.unbind(1)
    counts = torch.full((blocks,), float(_BLOCK), dtype=torch.float64, device=image.device)
    counts[-1] = voxels - (blocks - 1) * _BLOCK
    mean = (means * counts).sum(1) / voxels
    total = squares.sum(1) + (counts * (means - mean[:, None]) ** 2).sum(1)
    known = ~torch.isnan(mean)
    return low.amin(1).where(known, torch.nan), high.amax(1).where(known, torch.nan), mean, total


_STEPS: dict[str, Callable[[torch.Tensor, Step], torch.Tensor]] = {
    "noise": _noise,
    "blur": _blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "low_resolution": _low_resolution,
    "gamma": _gamma,
}


@triton.jit
def _log2(x):
    """log2 of a positive normal number, relative error 1e-7: Chebyshev fit of log2(1 + f) / f."""
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    f = (bits - exponent * 8388608).to(tl.float32, bitcast=True) - 1.0
    p = 0.12614846229553223 * f - 0.20742103457450867
    p = p * f + 0.21566985547542572
    p = p * f - 0.23892034590244293
    p = p * f + 0.2879183292388916
    p = p * f - 0.36070483922958374
    p = p * f + 0.48091059923171997
    p = p * f - 0.7213473320007324
    p = p * f + 1.4426950216293335
    return exponent.to(tl.float32) + f * p


@triton.jit
def _box_muller(a, b):
    """Two standard normal numbers of two random words (uint32), as in `counter_noise`."""
    u = ((a >> 8) + 1).to(tl.float32) * (1.0 / 16777216.0)
    radius = tl.sqrt(-1.3862943611198906 * _log2(u))
    turn = (b >> 8).to(tl.float32) * (1.0 / 4194304.0)  # quarter turns, [0, 4)
    nearest = tl.floor(turn + 0.5)
    quadrant = nearest.to(tl.int32)
    y = turn - nearest
    z = y * y
    s = -0.00460216 * z + 0.07968022
    s = s * z - 0.64596348
    s = (s * z + 1.57079632) * y
    c = 9.03629886e-04 * z - 2.08600704e-02
    c = c * z + 2.53669204e-01
    c = c * z - 1.23370054
    c = c * z + 1.0
    swapped = (quadrant & 1) == 1
    cosine = tl.where(((quadrant + 1) & 2) == 2, -radius, radius) * tl.where(swapped, s, c)
    sine = tl.where((quadrant & 2) == 2, -radius, radius) * tl.where(swapped, c, s)
    return cosine, sine


@triton.jit
def _noise_kernel(image, out, voxels, keys, std, BLOCK: tl.constexpr):  # noqa: N803
    channel = tl.program_id(1)
    base = channel.to(tl.int64) * voxels
    local = tl.arange(0, BLOCK // 4)
    counter = tl.program_id(0) * (BLOCK // 4) + local
    word = counter.to(tl.uint32)
    zero = word * 0
    key0 = tl.load(keys).to(tl.uint32, bitcast=True)
    key1 = tl.load(keys + 1).to(tl.uint32, bitcast=True)
    w0, w1, w2, w3 = tl.philox_impl(word, zero, zero + channel.to(tl.uint32), zero, zero + key0, zero + key1, 10)
    z0, z1 = _box_muller(w0, w1)
    z2, z3 = _box_muller(w2, w3)
    voxel = tl.program_id(0) * BLOCK + (local // 16) * 64 + local % 16
    for word_number in tl.static_range(4):
        z = z0 if word_number == 0 else (z1 if word_number == 1 else (z2 if word_number == 2 else z3))
        i = voxel + 16 * word_number
        inside = i < voxels
        x = tl.load(image + base + i, mask=inside, other=0.0)
        tl.store(out + base + i, x + std * z, mask=inside)


@triton.jit
def _stretch_kernel(image, out, voxels, table, BLOCK: tl.constexpr):  # noqa: N803
    channel = tl.program_id(1)
    base = channel.to(tl.int64) * voxels
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = table + channel * 4
    low, high = tl.load(row + 2), tl.load(row + 3)
    v = tl.load(row) * tl.load(image + base + i, mask=i < voxels, other=0.0) + tl.load(row + 1)
    v = tl.where(v < low, low, v)  # keeps a NaN
    v = tl.where(v > high, high, v)
    tl.store(out + base + i, v, mask=i < voxels)


@triton.jit
def _power_kernel(image, out, voxels, table, BLOCK: tl.constexpr):  # noqa: N803
    channel = tl.program_id(1)
    base = channel.to(tl.int64) * voxels
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = table + channel * 3
    x = tl.load(image + base + i, mask=i < voxels, other=0.0)
    t = (x - tl.load(row)) * tl.load(row + 1)
    t = tl.where(t <= 0.0, 0.0, t)  # no -0 either: its bits would make an exponent out of range
    t = tl.where(t > 1.0, 1.0, t)
    power = tl.exp2(tl.load(row + 2) * _log2(t))
    tl.store(out + base + i, tl.where(t > 0.0, power, 0.0), mask=i < voxels)


@triton.jit
def _statistics_kernel(image, parts, voxels, blocks, BLOCK: tl.constexpr):  # noqa: N803
    block = tl.program_id(0)
    channel = tl.program_id(1)
    i = block * BLOCK + tl.arange(0, BLOCK)
    inside = i < voxels
    x = tl.load(image + channel.to(tl.int64) * voxels + i, mask=inside, other=0.0)
    exact = x.to(tl.float64)
    mean = tl.sum(exact, 0) / tl.minimum(voxels - block * BLOCK, BLOCK).to(tl.float64)
    deviation = tl.where(inside, exact - mean, 0.0)
    row = parts + channel.to(tl.int64) * 4 * blocks + block
    tl.store(row, tl.min(tl.where(inside, x, float("inf")), 0).to(tl.float64))
    tl.store(row + blocks, tl.max(tl.where(inside, x, float("-inf")), 0).to(tl.float64))
    tl.store(row + 2 * blocks, mean)
    tl.store(row + 3 * blocks, tl.sum(deviation * deviation, 0))


@triton.jit
def _blur_kernel(image, out, voxels, table, taps, size, after, BLOCK: tl.constexpr):  # noqa: N803
    channel = tl.program_id(1)
    base = channel.to(tl.int64) * voxels
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < voxels
    position = (i // after) % size
    line = image + base + (i - position * after)
    total = tl.zeros([BLOCK], tl.float32)
    for k in range(taps):
        tap = tl.load(table + channel * taps + k)
        place = tl.minimum(tl.maximum(position + (k - taps // 2), 0), size - 1)
        # channels with fewer taps have zeros around them, which must not spread an infinity
        total += tl.where(tap == 0.0, 0.0, tap * tl.load(line + place * after, mask=inside, other=0.0))
    tl.store(out + base + i, total, mask=inside)


@triton.jit
def _mix(a, b, weight):
    return tl.where(weight == 0.0, a, a + weight * (b - a))


@triton.jit
def _low_resolution_kernel(image, out, voxels, lefts, rights, weights, depth, height, width, BLOCK: tl.constexpr):  # noqa: N803
    channel = tl.program_id(1)
    source = image + channel.to(tl.int64) * voxels
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < voxels
    z = channel * (depth + height + width) + tl.minimum(i // (height * width), depth - 1)
    y = channel * (depth + height + width) + depth + (i // width) % height
    x = channel * (depth + height + width) + depth + height + i % width
    x0, x1, wx = tl.load(lefts + x), tl.load(rights + x), tl.load(weights + x)
    y0, y1, wy = tl.load(lefts + y) * width, tl.load(rights + y) * width, tl.load(weights + y)
    z0, z1, wz = tl.load(lefts + z) * height * width, tl.load(rights + z) * height * width, tl.load(weights + z)
    a = _mix(tl.load(source + z0 + y0 + x0), tl.load(source + z0 + y0 + x1), wx)
    b = _mix(tl.load(source + z0 + y1 + x0), tl.load(source + z0 + y1 + x1), wx)
    c = _mix(tl.load(source + z1 + y0 + x0), tl.load(source + z1 + y0 + x1), wx)
    d = _mix(tl.load(source + z1 + y1 + x0), tl.load(source + z1 + y1 + x1), wx)
    tl.store(out + channel.to(tl.int64) * voxels + i, _mix(_mix(a, b, wy), _mix(c, d, wy), wz), mask=inside)
