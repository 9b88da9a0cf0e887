"""Blending of overlapping windows: weighted sums without a volume of weights, then logits, softmax or labels.

nnU-Net's sliding window (Isensee et al., Nature Methods 2021) with Gaussian weights, which are a product of one vector
per axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.ops import forms
from monai_ext.ops.gaussian_blend import reference

NAME = "gaussian_blend"
MODES = ("logits", "softmax", "argmax")
LABEL_TYPES = (torch.uint8, torch.int16, torch.int64)


def accumulate(
    sums: torch.Tensor,
    outputs: torch.Tensor | Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    starts: Sequence[Sequence[int]],
    flips: Sequence[Sequence[int]] | None = None,
    fresh: Sequence[Sequence[int]] | None = None,
    lines: torch.Tensor | None = None,
) -> torch.Tensor:
    """Add windows, weighted and with their mirroring undone, to the sums they overlap, in place and in their order.

    Args:
        sums: `[K, *S]` float32, with 1 to 3 spatial axes; with `lines` a store `[L, K, W]` of lines.
        outputs: N windows `[K, *roi]` float32, bfloat16 or float16.
        weights: one vector per axis, `[roi_i]` for all windows or `[N, roi_i]`, float32, not negative. A voxel counts
            by their product, raised to the smallest normal float32 where that underflows.
        starts: N x first voxel of the window per axis. Windows may reach over the edges of the volume, or lie outside;
            what is outside is left out.
        flips: N x spatial axes (0 is the first) along which the output is mirrored; None for none.
        fresh: N x voxel of the volume per axis. Where all coordinates are at least these, the sums are overwritten
            instead of added to, so that they need not be zeroed. None adds everywhere.
        lines: `[D, H]` int32, the line of the store that holds each row of the volume `[D, H, W]`; a row with a
            negative entry is left out, no two of a window may share a line.

    Returns:
        `sums`. If gradients are on and an output needs one, it is computed by plain torch, so that they flow.

    Raises:
        ValueError: shapes, lengths or dtypes do not fit, a flipped axis does not exist.
    """
    windows = list(outputs)
    dims = _dims(sums, lines)
    if flips is None:
        flips = [()] * len(windows)
    if fresh is None:
        fresh = [tuple(sums.shape[1:]) if lines is None else (*lines.shape, sums.shape[2])] * len(windows)
    _check_windows(sums, windows, weights, starts, flips, fresh, dims, 0 if lines is None else 1)
    if not windows:
        return sums
    needs_gradient = torch.is_grad_enabled() and (sums.requires_grad or any(w.requires_grad for w in windows))
    plain = needs_gradient or sums.dtype == torch.float64
    form = reference if plain else forms.implementation(NAME, sums.device)
    with forms.on_device_of(sums):
        form.accumulate(sums, windows, weights, starts, flips, fresh, lines)
    return sums


def finalise(
    sums: torch.Tensor,
    reciprocals: Sequence[torch.Tensor] | None = None,
    mode: str = "logits",
    labels: torch.Tensor | None = None,
    lines: torch.Tensor | None = None,
) -> torch.Tensor:
    """Multiply weighted sums by a product of one vector per axis, and make logits, softmax or labels of them.

    Args:
        sums: `[K, *S]` float32, changed in place unless `mode` is `argmax`; a view of a larger volume will do.
        reciprocals: one float32 vector `[S_i]` per axis, 1 over the summed weights; None: the weights added up to one.
        mode: `logits`, `softmax` over the classes, or `argmax`: the first of equal values wins, NaN counts as largest.
        labels: `[*S]` uint8, int16 or int64, which receives the `argmax`; a view of a larger volume will do.
        lines: for `argmax` only: `[D, H]` int32, as in `accumulate`; `sums` is then the store `[L, K, W]`. Rows with a
            negative entry leave their labels as they are.

    Returns:
        `sums`, or `labels`.

    Raises:
        ValueError: unknown mode, shapes or dtypes that do not fit, more classes than the labels can tell.
    """
    dims = _dims(sums, lines)
    extent = tuple(sums.shape[1:]) if lines is None else (*lines.shape, sums.shape[2])
    if mode not in MODES:
        raise ValueError(f"mode: unknown value {mode!r}, must be one of {', '.join(MODES)}")
    if reciprocals is not None and [tuple(r.shape) for r in reciprocals] != [(size,) for size in extent]:
        raise ValueError(f"reciprocals must be {dims} vectors of {extent}, got {[tuple(r.shape) for r in reciprocals]}")
    if (mode == "argmax") != (labels is not None) or (lines is not None and mode != "argmax"):
        raise ValueError(f"labels belong to mode argmax, lines to no other; got mode {mode!r}")
    if labels is not None:
        classes = sums.shape[0] if lines is None else sums.shape[1]
        if tuple(labels.shape) != extent or labels.dtype not in LABEL_TYPES or labels.device != sums.device:
            raise ValueError(
                f"labels must be {extent} uint8, int16 or int64 on {sums.device}, got {tuple(labels.shape)} "
                f"{labels.dtype} on {labels.device}"
            )
        if not 1 <= classes <= torch.iinfo(labels.dtype).max + 1:
            raise ValueError(f"{labels.dtype} labels cannot tell {classes} classes")
    needs_gradient = torch.is_grad_enabled() and sums.requires_grad
    plain = needs_gradient or sums.dtype == torch.float64
    form = reference if plain else forms.implementation(NAME, sums.device)
    with forms.on_device_of(sums):
        form.finalise(sums, reciprocals, mode, labels, lines)
    return sums if labels is None else labels


# they change their first argument and run in inferers, outside of graphs
accumulate.not_compiled = True  # type: ignore[attr-defined]
finalise.not_compiled = True  # type: ignore[attr-defined]


def _dims(sums: torch.Tensor, lines: torch.Tensor | None) -> int:
    if sums.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"sums must be float32, got {sums.dtype}")
    if lines is None:
        if not 2 <= sums.ndim <= 4:
            raise ValueError(f"sums must be [K, *S] with 1 to 3 spatial axes, got {tuple(sums.shape)}")
        return sums.ndim - 1
    if sums.ndim != 3 or lines.ndim != 2 or lines.dtype != torch.int32 or lines.device != sums.device:
        raise ValueError(
            f"with lines [D, H] int32, sums must be [L, K, W] on the same device, got lines {tuple(lines.shape)} "
            f"{lines.dtype} on {lines.device}, sums {tuple(sums.shape)} on {sums.device}"
        )
    return 3


def _check_windows(
    sums: torch.Tensor,
    windows: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    starts: Sequence[Sequence[int]],
    flips: Sequence[Sequence[int]],
    fresh: Sequence[Sequence[int]],
    dims: int,
    class_axis: int,
) -> None:
    count, axes = len(windows), range(dims)
    if not len(starts) == len(flips) == len(fresh) == count or any(len(row) != dims for row in (*starts, *fresh)):
        raise ValueError(f"starts, flips and fresh must hold one entry for each of {count} windows, of {dims} numbers")
    if any(flips) and any(axis not in axes or flip.count(axis) > 1 for flip in flips for axis in flip):
        raise ValueError(f"flips must hold different axes from 0 to {dims - 1}, got {list(flips)}")
    if count == 0:
        return
    device, classes, shape = sums.device, sums.shape[class_axis], windows[0].shape
    for window in windows:
        if window.ndim != dims + 1 or window.shape[0] != classes or window.shape != shape:
            raise ValueError(
                f"outputs must all be [{classes}, *roi] with {dims} spatial axes, "
                f"got {[tuple(w.shape) for w in windows]}"
            )
        if not window.is_floating_point() or window.device != device:
            raise ValueError(f"outputs must be floating tensors on {device}, as the sums are, got {window.dtype}")
    for axis, size in enumerate(shape[1:]):
        if len(weights) != dims or weights[axis].shape not in ((size,), (count, size)):
            raise ValueError(
                f"weights must be one vector per axis of the window {tuple(shape[1:])}, "
                f"got {[tuple(w.shape) for w in weights]}"
            )
