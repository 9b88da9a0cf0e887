"""Triton form: one launch a window, in order, so that no two programs ever add to the same value."""
# ruff: noqa: N803 - kernels name sizes as shapes are written

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from monai_ext.ops.gaussian_blend import reference

BLOCK = 1024  # values of a plane taken by one program
BYTES_TO_TYPE = {1: tl.uint8, 2: tl.int16, 8: tl.int64}
# compiled once, not for every place at the border of a volume or direction of mirroring
_CHANGING = ["low_z", "low_y", "low_x", "inner_z", "inner_y", "inner_x", "fresh_z", "fresh_y", "fresh_x", "Z", "Y", "X",
             "first_z", "first_y", "first_x", "step_z", "step_y", "step_x", "H", "plane", "line"]  # fmt: skip


@triton.jit(do_not_specialize=_CHANGING)
def _add(sums, table, output, weights_z, weights_y, weights_x, low_z, low_y, low_x, inner_z, inner_y, inner_x,
         fresh_z, fresh_y, fresh_x, Z, Y, X, first_z, first_y, first_x, step_z, step_y, step_x, H, across, plane, line,
         ROI_Z, ROI_Y, ROI_X, SMALLEST: tl.constexpr, TABLE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Adds the box `[Z, Y, X]` of a window, which starts at `low` in the volume and at `inner` in the window.

    The output is read from `first` in steps of 1 or, where it is mirrored, -1.
    """
    k = (tl.program_id(0) // Z).to(tl.int64)
    box_z = tl.program_id(0) % Z
    within = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y, x = within // X, within % X
    valid = y < Y
    wz, wy, wx = inner_z + box_z, inner_y + y, inner_x + x
    z, y, x = low_z + box_z, low_y + y, low_x + x
    if TABLE:
        place = tl.load(table + z * H + y, mask=valid, other=-1)
        valid = valid & (place >= 0)
        where = k * across + place.to(tl.int64) * line + x
    else:
        where = k * across + z.to(tl.int64) * plane + y.to(tl.int64) * line + x
    from_z, from_y, from_x = first_z + step_z * wz, first_y + step_y * wy, first_x + step_x * wx
    value = tl.load(output + ((k * ROI_Z + from_z) * ROI_Y + from_y) * ROI_X + from_x, mask=valid).to(tl.float32)
    weight = tl.load(weights_z + wz) * tl.load(weights_y + wy, mask=valid) * tl.load(weights_x + wx, mask=valid)
    is_old = tl.minimum(tl.minimum(z - fresh_z, y - fresh_y), x - fresh_x) < 0
    before = tl.load(sums + where, mask=valid & is_old, other=0.0)
    tl.store(sums + where, before + value * tl.maximum(weight, SMALLEST), mask=valid)


@triton.jit
def _factor(factors_z, factors_y, factors_x, z, y, x, valid, SCALED: tl.constexpr, BLOCK: tl.constexpr):
    if SCALED:
        across = tl.load(factors_z + z) * tl.load(factors_y + y, mask=valid)
        return across * tl.load(factors_x + x, mask=valid)
    return tl.full((BLOCK,), 1.0, tl.float32)


@triton.jit(do_not_specialize=["D", "H", "W", "plane", "line"])
def _scale(sums, factors_z, factors_y, factors_x, D, H, W, across, plane, line, K, SCALED: tl.constexpr,
           SOFTMAX: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    z = tl.program_id(0)
    within = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y, x = within // W, within % W
    valid = y < H
    factor = _factor(factors_z, factors_y, factors_x, z, y, x, valid, SCALED, BLOCK)
    row = sums + z.to(tl.int64) * plane + y.to(tl.int64) * line + x
    largest = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    if SOFTMAX:
        at = row
        for _ in range(K):
            value = tl.load(at, mask=valid, other=0.0) * factor
            largest = tl.maximum(largest, value, propagate_nan=tl.PropagateNan.ALL)
            at += across
        at = row
        for _ in range(K):
            total += tl.exp(tl.load(at, mask=valid, other=0.0) * factor - largest)
            at += across
    at = row
    for _ in range(K):
        value = tl.load(at, mask=valid, other=0.0) * factor
        if SOFTMAX:
            value = tl.exp(value - largest) / total
        tl.store(at, value, mask=valid)
        at += across


@triton.jit(do_not_specialize=["D", "H", "W", "plane", "line", "label_plane", "label_line"])
def _label(sums, table, labels, factors_z, factors_y, factors_x, D, H, W, across, plane, line, label_plane, label_line,
           label_across, K, SCALED: tl.constexpr, TABLE: tl.constexpr, TYPE: tl.constexpr,
           BLOCK: tl.constexpr):  # fmt: skip
    z = tl.program_id(0)
    within = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y, x = within // W, within % W
    valid = y < H
    to = labels + z.to(tl.int64) * label_plane + y.to(tl.int64) * label_line + x.to(tl.int64) * label_across
    factor = _factor(factors_z, factors_y, factors_x, z, y, x, valid, SCALED, BLOCK)
    if TABLE:
        place = tl.load(table + z * H + y, mask=valid, other=-1)
        valid = valid & (place >= 0)
        row = sums + place.to(tl.int64) * line + x
    else:
        row = sums + z.to(tl.int64) * plane + y.to(tl.int64) * line + x
    best = tl.load(row, mask=valid, other=0.0) * factor
    label = tl.zeros((BLOCK,), tl.int32)
    at = row
    for k in range(1, K):
        at += across
        value = tl.load(at, mask=valid, other=0.0) * factor
        better = ((value > best) | (value != value)) & (best == best)
        best = tl.where(better, value, best)
        label = tl.where(better, k, label)
    tl.store(to, label.to(TYPE), mask=valid)


def accumulate(
    sums: torch.Tensor,
    outputs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    starts: Sequence[Sequence[int]],
    flips: Sequence[Sequence[int]],
    fresh: Sequence[Sequence[int]],
    lines: torch.Tensor | None,
) -> None:
    """See `monai_ext.ops.gaussian_blend.accumulate`."""
    if sums.stride(-1) != 1:
        reference.accumulate(sums, outputs, weights, starts, flips, fresh, lines)
        return
    missing = 4 - outputs[0].ndim
    lead = [0] * missing
    classes, roi = outputs[0].shape[0], (*[1] * missing, *outputs[0].shape[1:])
    across, plane, line, extent = _layout(sums, lines)
    table = sums if lines is None else lines.contiguous()
    one = sums.new_ones(1)
    for n, (output, start, flip, new) in enumerate(zip(outputs, starts, flips, fresh, strict=True)):
        start, new = (*lead, *start), (*lead, *new)
        low = [max(s, 0) for s in start]
        inner = [first - s for first, s in zip(low, start, strict=True)]
        box = [min(s + r, e) - first for s, r, e, first in zip(start, roi, extent, low, strict=True)]
        if min(box) <= 0 or classes == 0:
            continue
        vectors = [one] * missing + [(w if w.ndim == 1 else w[n]).float().contiguous() for w in weights]
        steps = [-1 if axis - missing in flip else 1 for axis in range(3)]
        firsts = [size - 1 if step < 0 else 0 for size, step in zip(roi, steps, strict=True)]
        grid = (classes * box[0], triton.cdiv(box[1] * box[2], BLOCK))
        _add[grid](
            *(sums, table, output.contiguous(), *vectors, *low, *inner, *new, *box, *firsts, *steps, extent[1]),
            *(across, plane, line, *roi),
            torch.finfo(torch.float32).tiny,
            lines is not None,
            BLOCK,
        )


def finalise(
    sums: torch.Tensor,
    reciprocals: Sequence[torch.Tensor] | None,
    mode: str,
    labels: torch.Tensor | None,
    lines: torch.Tensor | None,
) -> None:
    """See `monai_ext.ops.gaussian_blend.finalise`."""
    if mode == "logits" and reciprocals is None:
        return
    if sums.stride(-1) != 1:
        reference.finalise(sums, reciprocals, mode, labels, lines)
        return
    across, plane, line, extent = _layout(sums, lines)
    classes = sums.shape[0] if lines is None else sums.shape[1]
    if min(extent) == 0 or classes == 0:
        return
    one = sums.new_ones(1)
    vectors = [] if reciprocals is None else [r.float().contiguous() for r in reciprocals]
    factors = [*[one] * (3 - len(vectors)), *vectors]
    grid = (extent[0], triton.cdiv(extent[1] * extent[2], BLOCK))
    scaled = reciprocals is not None
    if labels is None:
        _scale[grid](sums, *factors, *extent, across, plane, line, classes, scaled, mode == "softmax", BLOCK)
        return
    strides = (*[0] * (3 - labels.ndim), *labels.stride())
    table = sums if lines is None else lines.contiguous()
    _label[grid](
        *(sums, table, labels, *factors, *extent, across, plane, line, *strides, classes, scaled),
        *(lines is not None, BYTES_TO_TYPE[labels.element_size()], BLOCK),
    )


def _layout(sums: torch.Tensor, lines: torch.Tensor | None) -> tuple[int, int, int, tuple[int, ...]]:
    """Strides of classes, planes and lines, and the sizes of planes, lines and rows."""
    if lines is not None:
        line, across, _ = sums.stride()
        return across, 0, line, (*lines.shape, sums.shape[2])
    missing = 4 - sums.ndim
    strides = (*[0] * missing, *sums.stride())
    return (
        sums.stride(0),
        (0 if missing else strides[1]),
        (0 if missing > 1 else strides[2]),
        (
            *[1] * missing,
            *sums.shape[1:],
        ),
    )
