"""Tail of a squeeze-and-excitation block in two passes over memory: batch norm, squeeze, gate, residual, ReLU."""

from __future__ import annotations

from math import prod
from typing import Any, Optional

import torch

from monai_ext.ops import forms
from monai_ext.ops.layout import dense, laid_out_like
from monai_ext.ops.se_gate import reference

NAME = "se_gate"


def se_gate(
    x: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
    residual: Optional[torch.Tensor],  # noqa: UP045
    norm_weight: Optional[torch.Tensor] = None,  # noqa: UP045
    norm_bias: Optional[torch.Tensor] = None,  # noqa: UP045
    mean: Optional[torch.Tensor] = None,  # noqa: UP045
    var: Optional[torch.Tensor] = None,  # noqa: UP045
    eps: float = 1e-5,
    training: bool = False,
    relu: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`relu(n * s + residual)` with `n = batch_norm(x)` and `s = sigmoid(w2 relu(w1 mean(n) + b1) + b2)`.

    Hu et al. 2018 (squeeze and excitation), Ioffe and Szegedy 2015 (batch norm). The mean of `n` over the positions is
    linear in that of x, so that one pass over x gives the moments of the norm and the squeeze, and a second one y. The
    gradient takes two passes too.

    Args:
        x: `[B, C, *S]`, float32, bfloat16 or float16, in any dense layout (contiguous and channels last are read and
            written as they are, others are copied).
        w1, b1: `[H, C]`, `[H]` float32, of the layer that squeezes.
        w2, b2: `[C, H]`, `[C]` float32, of the layer that excites.
        residual: like x, or None.
        norm_weight, norm_bias: `[C]` float32; None takes x as it is, which serves where the norm was folded away.
        mean, var: `[C]` float32 statistics of the norm, constants for the gradient; needed unless `training`.
        eps: added to the variance.
        training: normalise by the statistics of this batch, and differentiate through them.
        relu: whether the sum is rectified.

    Returns:
        y `[B, C, *S]` in the type of x, from the fused forms also in its layout; mean and biased variance `[C]` that
        the norm used (float32; of the batch in `training`, else `mean` and `var` themselves; empty without a norm). The
        statistics have no gradient. Running statistics are the caller's to update.

    Raises:
        ValueError: shapes do not fit, statistics are missing, or a batch of one value a channel is to be normalised.
    """
    if torch.jit.is_scripting():
        return reference.se_gate(x, w1, b1, w2, b2, residual, norm_weight, norm_bias, mean, var, eps, training, relu)
    else:
        normed = norm_weight is not None
        if not normed:
            norm_bias = mean = var = None
        if not torch.jit.is_tracing() and not torch.onnx.is_in_onnx_export():
            _check(x, (w1, b1, w2, b2), residual, (norm_weight, norm_bias, mean, var), training)
            if x.numel() == 0:
                nothing = x.new_zeros(0, dtype=torch.float32)
                return x.clone(), nothing if mean is None else mean, nothing if var is None else var
            if x.dtype != torch.float64 and forms.is_fused(NAME, x.device.type):
                given = (None, None) if training else (mean, var)
                y, batch_mean, batch_var, *_ = _forward(
                    x, w1, b1, w2, b2, residual, norm_weight, norm_bias, *given, eps, training, relu
                )
                return (y, batch_mean, batch_var) if mean is None or var is None or training else (y, mean, var)
        # the layers of the gate are small, and half precision there would be felt everywhere
        with torch.autocast(x.device.type, enabled=False):
            return reference.se_gate(
                x, w1, b1, w2, b2, residual, norm_weight, norm_bias, mean, var, eps, training, relu
            )


def _check(
    x: torch.Tensor,
    layers: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    residual: torch.Tensor | None,
    norm: tuple[torch.Tensor | None, ...],
    training: bool,
) -> None:
    if x.ndim < 3:
        raise ValueError(f"x {tuple(x.shape)} must be [B, C, *S] with at least one spatial axis")
    channels, hidden = x.shape[1], layers[0].shape[0]
    wanted: tuple[tuple[int, ...], ...] = ((hidden, channels), (hidden,), (channels, hidden), (channels,))
    for name, tensor, shape in zip(("w1", "b1", "w2", "b2"), layers, wanted, strict=True):
        if tensor.shape != shape:
            raise ValueError(f"{name} {tuple(tensor.shape)} must be {list(shape)} for {channels} channels")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"residual {tuple(residual.shape)} must have the shape of x, {tuple(x.shape)}")
    if norm[0] is None:
        return
    for name, vector in zip(("norm_weight", "norm_bias", "mean", "var"), norm, strict=True):
        if vector is None:
            if name == "norm_bias" or not training:
                raise ValueError(f"{name} is missing: a norm needs weight and bias, and out of training mean and var")
        elif vector.shape != (channels,):
            raise ValueError(f"{name} {tuple(vector.shape)} must be [{channels}], one a channel")
    if training and x.shape[0] * prod(x.shape[2:]) < 2:
        raise ValueError(f"a batch norm in training needs more than one value a channel, got x {tuple(x.shape)}")


@torch.library.custom_op("monai_ext::se_gate", mutates_args=())
def _forward(
    x: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
    residual: Optional[torch.Tensor],  # noqa: UP045
    norm_weight: Optional[torch.Tensor],  # noqa: UP045
    norm_bias: Optional[torch.Tensor],  # noqa: UP045
    mean: Optional[torch.Tensor],  # noqa: UP045
    var: Optional[torch.Tensor],  # noqa: UP045
    eps: float,
    training: bool,
    relu: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output; batch mean and variance `[C]` (empty unless `training`); and what the gradient needs, all float32:
    mean of x over the positions less that of the norm `[B, C]`, hidden values `[B, H]`, gate `[B, C]`."""
    x = dense(x)
    if residual is not None:
        residual = laid_out_like(residual, x)
    with forms.on_device_of(x):
        return forms.implementation(NAME, x.device).forward(
            x, w1, b1, w2, b2, residual, norm_weight, norm_bias, mean, var, eps, training, relu
        )


@_forward.register_fake
def _(
    x: torch.Tensor, w1: torch.Tensor, b1: Any, w2: Any, b2: Any, residual: Any, norm_weight: Any, norm_bias: Any,
    mean: Any, var: Any, eps: Any, training: bool, relu: Any,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    batch, channels = x.shape[:2]
    statistics = channels if training and norm_weight is not None else 0
    shapes = ((statistics,), (statistics,), (batch, channels), (batch, w1.shape[0]), (batch, channels))
    return torch.empty_like(dense(x)), *(x.new_empty(shape, dtype=torch.float32) for shape in shapes)


@torch.library.custom_op("monai_ext::se_gate_backward", mutates_args=())
def _backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    y: Optional[torch.Tensor],  # noqa: UP045
    w1: torch.Tensor,
    w2: torch.Tensor,
    norm_weight: Optional[torch.Tensor],  # noqa: UP045
    norm_bias: Optional[torch.Tensor],  # noqa: UP045
    mean: Optional[torch.Tensor],  # noqa: UP045
    var: Optional[torch.Tensor],  # noqa: UP045
    centre: torch.Tensor,
    hidden: torch.Tensor,
    gate: torch.Tensor,
    eps: float,
    training: bool,
) -> tuple[
    torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor
]:
    """Gradients of x, the residual, w1, b1, w2, b2 and norm's weight and bias (empty without a norm).

    `y` is the rectified output, None without ReLU: the residual's gradient is dy then, and what stands for it is empty.
    """
    x = dense(x)
    dy = laid_out_like(dy.to(x.dtype), x)
    with forms.on_device_of(x):
        return forms.implementation(NAME, x.device).backward(
            dy, x, y, w1, w2, norm_weight, norm_bias, mean, var, centre, hidden, gate, eps, training
        )


@_backward.register_fake
def _(
    dy: Any, x: torch.Tensor, y: Any, w1: torch.Tensor, w2: torch.Tensor, norm_weight: torch.Tensor | None, *_: Any
) -> tuple[torch.Tensor, ...]:
    like = dense(x)
    hidden, channels = w1.shape
    norm = channels if norm_weight is not None else 0
    shapes = ((hidden, channels), (hidden,), (channels, hidden), (channels,), (norm,), (norm,))
    added = like.new_empty(0) if y is None else torch.empty_like(like)
    return torch.empty_like(like), added, *(x.new_empty(shape, dtype=torch.float32) for shape in shapes)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    x, w1, b1, w2, b2, residual, norm_weight, norm_bias, mean, var, ctx.eps, ctx.training, relu = inputs
    y, batch_mean, batch_var, centre, hidden, gate = output
    if ctx.training and norm_weight is not None:
        mean, var = batch_mean, batch_var
    kept = (x, y if relu else None, w1, w2, norm_weight, norm_bias, mean, var, centre, hidden, gate)
    ctx.save_for_backward(*kept)
    ctx.types = tuple(None if t is None else t.dtype for t in (residual, w1, b1, w2, b2, norm_weight, norm_bias))
    ctx.mark_non_differentiable(batch_mean, batch_var, centre, hidden, gate)


def _gradient(ctx: Any, dy: torch.Tensor, *_: Any) -> tuple[Any, ...]:
    y = ctx.saved_tensors[1]
    dx, added, *others = _backward(dy, *ctx.saved_tensors, ctx.eps, ctx.training)
    gradients = (dy if y is None else added, *others)
    added, dw1, db1, dw2, db2, dweight, dbias = (
        None if kind is None else gradient.to(kind) for gradient, kind in zip(gradients, ctx.types, strict=True)
    )
    return dx, dw1, db1, dw2, db2, added, dweight, dbias, None, None, None, None, None


_forward.register_autograd(_gradient, setup_context=_keep)
