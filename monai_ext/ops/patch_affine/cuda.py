"""Triton form: one program a block of patch voxels, neighbours outside the volume replaced as they are loaded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from monai_ext.ops.forms import on_device_of
from monai_ext.ops.patch_affine import reference

_BLOCK = 256


def patch_affine(
    images: Sequence[torch.Tensor],
    labels: Sequence[torch.Tensor] | None,
    positions: torch.Tensor,
    size: Sequence[int],
    order: int,
    pad_label: int,
    fill: float,
    nearest: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As in `reference`; float64 images go there."""
    if any(image.dtype == torch.float64 for image in images):
        return reference.patch_affine(images, labels, positions, size, order, pad_label, fill, nearest)
    device = images[0].device
    out = torch.empty((len(images), images[0].shape[0], *size), device=device)
    target = None if labels is None else torch.empty((len(images), 1, *size), dtype=labels[0].dtype, device=device)
    positions = positions.to(device, non_blocking=True)
    number = size[0] * size[1] * size[2]
    blocks = triton.cdiv(number, _BLOCK)
    if number == 0:
        return out, target
    with on_device_of(images[0]):
        for b, image in enumerate(images):
            _image_kernel[(blocks, images[0].shape[0])](
                image, out[b], positions[b], fill, number, size[1], size[2], *image.shape[1:], *image.stride(),
                CUBIC=order == 3, BLOCK=_BLOCK,
            )  # fmt: skip
            if labels is not None and target is not None:
                label = labels[b]
                _label_kernel[(blocks,)](
                    label, target[b], positions[b], pad_label, number, size[1], size[2], *label.shape[1:],
                    *label.stride()[1:], NEAREST=nearest, BLOCK=_BLOCK,
                )  # fmt: skip
    return out, target


@triton.jit
def _positions(affine, voxel, height, width):
    """Position of patch voxels along the three axes, in fixed point."""
    x = (voxel % width).to(tl.int64)
    y = (voxel // width % height).to(tl.int64)
    z = (voxel // width // height).to(tl.int64)
    p0 = tl.load(affine) + tl.load(affine + 3) * z + tl.load(affine + 4) * y + tl.load(affine + 5) * x
    p1 = tl.load(affine + 1) + tl.load(affine + 6) * z + tl.load(affine + 7) * y + tl.load(affine + 8) * x
    p2 = tl.load(affine + 2) + tl.load(affine + 9) * z + tl.load(affine + 10) * y + tl.load(affine + 11) * x
    return p0, p1, p2


@triton.jit
def _fraction(position):
    return ((position >> 8) & 0xFFFFFF).to(tl.float32) * (1.0 / 16777216)


@triton.jit
def _weight(w, tap, CUBIC: tl.constexpr):  # noqa: N803
    """Weight of a tap, counted from the first one."""
    v = 1 - w
    if CUBIC:
        inner = tl.where(tap == 1, w, v)
        outer = tl.where(tap == 0, w * v * v, v * w * w)
        return tl.where((tap == 0) | (tap == 3), -0.5 * outer, 1 + inner * inner * (1.5 * inner - 2.5))
    return tl.where(tap == 0, v, w)


@triton.jit
def _vote(w, tap):
    return tl.where(tap == 0, 1048576 - w, w)


@triton.jit
def _image_kernel(
    image, out, affine, fill, number, height, width, d0, d1, d2, stride_c, s0, s1, s2,
    CUBIC: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
):  # fmt: skip
    voxel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    wanted = voxel < number
    p0, p1, p2 = _positions(affine, voxel, height, width)
    w0, w1, w2 = _fraction(p0), _fraction(p1), _fraction(p2)
    taps: tl.constexpr = 4 if CUBIC else 2
    before: tl.constexpr = 1 if CUBIC else 0
    c0, c1, c2 = (p0 >> 32) - before, (p1 >> 32) - before, (p2 >> 32) - before
    channel = tl.program_id(1).to(tl.int64)
    source = image + channel * stride_c
    total = tl.zeros((BLOCK,), tl.float32)
    for a in range(taps):
        for b in range(taps):
            for c in tl.static_range(taps):
                i0, i1, i2 = c0 + a, c1 + b, c2 + c
                inside = (i0 >= 0) & (i0 < d0) & (i1 >= 0) & (i1 < d1) & (i2 >= 0) & (i2 < d2)
                at = i0 * s0 + i1 * s1 + i2 * s2
                value = tl.load(source + at, mask=wanted & inside, other=0).to(tl.float32)
                value = tl.where(inside, value, fill)
                total += _weight(w0, a, CUBIC) * _weight(w1, b, CUBIC) * _weight(w2, c, CUBIC) * value
    tl.store(out + channel * number + voxel, total, mask=wanted)


@triton.jit
def _class_at(label, p0, p1, p2, pad, d0, d1, d2, s0, s1, s2, wanted):
    inside = (p0 >= 0) & (p0 < d0) & (p1 >= 0) & (p1 < d1) & (p2 >= 0) & (p2 < d2)
    value = tl.load(label + p0 * s0 + p1 * s1 + p2 * s2, mask=wanted & inside, other=0).to(tl.int64)
    return tl.where(inside, value, pad)


@triton.jit
def _label_kernel(
    label, out, affine, pad, number, height, width, d0, d1, d2, s0, s1, s2,
    NEAREST: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
):  # fmt: skip
    voxel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    wanted = voxel < number
    p0, p1, p2 = _positions(affine, voxel, height, width)
    if NEAREST:
        half = 1 << 31
        c0, c1, c2 = (p0 + half) >> 32, (p1 + half) >> 32, (p2 + half) >> 32
        best = _class_at(label, c0, c1, c2, pad, d0, d1, d2, s0, s1, s2, wanted)
    else:
        w0, w1, w2 = (p0 >> 12) & 0xFFFFF, (p1 >> 12) & 0xFFFFF, (p2 >> 12) & 0xFFFFF
        c0, c1, c2 = p0 >> 32, p1 >> 32, p2 >> 32
        best = _class_at(label, c0, c1, c2, pad, d0, d1, d2, s0, s1, s2, wanted)
        score = tl.full((BLOCK,), -1, tl.int64)
        for corner in range(8):
            a, b, c = corner // 4, corner // 2 % 2, corner % 2
            candidate = _class_at(label, c0 + a, c1 + b, c2 + c, pad, d0, d1, d2, s0, s1, s2, wanted)
            total = tl.zeros((BLOCK,), tl.int64)
            # voxels are loaded again rather than kept: they are in the cache, and eight in registers are too many
            for other in tl.static_range(8):
                e, f, g = other // 4, other // 2 % 2, other % 2
                value = _class_at(label, c0 + e, c1 + f, c2 + g, pad, d0, d1, d2, s0, s1, s2, wanted)
                total += tl.where(value == candidate, _vote(w0, e) * _vote(w1, f) * _vote(w2, g), 0)
            better = (total > score) | ((total == score) & (candidate < best))
            best = tl.where(better, candidate, best)
            score = tl.where(better, total, score)
    tl.store(out + voxel, best.to(out.dtype.element_ty), mask=wanted)
