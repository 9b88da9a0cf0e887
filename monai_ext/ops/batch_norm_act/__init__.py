"""Batch norm with affine, optional residual and ReLU in as few passes over memory as it takes, and its gradient."""

from __future__ import annotations

from typing import Any, Optional

import torch

from monai_ext.ops import forms
from monai_ext.ops.batch_norm_act import reference
from monai_ext.ops.layout import dense, laid_out_like

NAME = "batch_norm_act"


def batch_norm_act(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    mean: Optional[torch.Tensor] = None,  # noqa: UP045
    var: Optional[torch.Tensor] = None,  # noqa: UP045
    residual: Optional[torch.Tensor] = None,  # noqa: UP045
    eps: float = 1e-5,
    relu: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`relu((x - mean) / sqrt(var + eps) * weight + bias + residual)`.

    Ioffe and Szegedy 2015. Without `mean` and `var` they are those of the batch, and the gradient of x flows through
    them, as in training; with them they are constants, as in evaluation or with frozen statistics. Nothing is kept for
    the gradient but x, and with a residual y, which the layer that follows keeps anyway.

    Args:
        x: `[B, C, *S]`, float32, bfloat16 or float16, in any dense layout (contiguous and channels last are read and
            written as they are, others are copied).
        weight, bias: `[C]` float32.
        mean, var: `[C]` float32, both or neither. They get no gradient.
        residual: like x, or None.
        eps: added to the variance.
        relu: whether negative values become 0.

    Returns:
        `[B, C, *S]` in the type of x, from the fused forms also in its layout; and mean and variance, `[C]` float32
        without a gradient: the given ones, or those of the batch. The variance is the biased one, the mean squared
        deviation: running statistics take it times `n / (n - 1)`, with n the values a channel. Statistics are float32
        sums, merged in float64.

    Raises:
        ValueError: shapes do not fit, only one of `mean` and `var` is given, or the batch has fewer than two values a
            channel to take statistics of.
    """
    if torch.jit.is_scripting():
        return reference.batch_norm_act(x, weight, bias, mean, var, residual, eps, relu)
    else:
        if torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
            return reference.batch_norm_act(x, weight, bias, mean, var, residual, eps, relu)
        _check(x, weight, bias, mean, var, residual)
        if mean is not None and var is not None and x.numel() == 0:
            return x.clone(), mean, var
        if x.dtype == torch.float64 or not forms.is_fused(NAME, x.device.type):
            return reference.batch_norm_act(x, weight, bias, mean, var, residual, eps, relu)
        y, batch_mean, batch_var = _forward(x, weight, bias, mean, var, residual, eps, relu)
        return (y, batch_mean, batch_var) if mean is None or var is None else (y, mean, var)


def _check(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
    residual: torch.Tensor | None,
) -> None:
    if x.ndim < 2:
        raise ValueError(f"x {tuple(x.shape)} must be [B, C, *S]")
    channels = x.shape[1]
    if (mean is None) != (var is None):
        raise ValueError("mean and var: give both, or neither for those of the batch")
    for name, value in (("weight", weight), ("bias", bias), ("mean", mean), ("var", var)):
        if value is not None and value.shape != (channels,):
            raise ValueError(f"{name} {tuple(value.shape)} must be [{channels}], one a channel")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"residual {tuple(residual.shape)} must have the shape of x, {tuple(x.shape)}")
    if mean is None and x.numel() < 2 * channels:
        raise ValueError(f"statistics of a batch need two values a channel or more, got x {tuple(x.shape)}")


@torch.library.custom_op("monai_ext::batch_norm_act", mutates_args=())
def _forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    mean: Optional[torch.Tensor],  # noqa: UP045
    var: Optional[torch.Tensor],  # noqa: UP045
    residual: Optional[torch.Tensor],  # noqa: UP045
    eps: float,
    relu: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output, mean and variance `[C]` float32 of the batch; the latter two are empty where they were given."""
    x = dense(x)
    if residual is not None:
        residual = laid_out_like(residual.to(x.dtype), x)
    with forms.on_device_of(x):
        return forms.implementation(NAME, x.device).forward(x, weight, bias, mean, var, residual, eps, relu)


@_forward.register_fake
def _(x: torch.Tensor, weight: Any, bias: Any, mean: Any, *_: Any) -> tuple[torch.Tensor, ...]:
    statistics = x.new_empty(x.shape[1] if mean is None else 0, dtype=torch.float32)
    return torch.empty_like(dense(x)), statistics, torch.empty_like(statistics)


@torch.library.custom_op("monai_ext::batch_norm_act_backward", mutates_args=())
def _backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    y: Optional[torch.Tensor],  # noqa: UP045
    weight: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    eps: float,
    relu: bool,
    training: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of x, weight, bias and, with y, of what was added before the ReLU (else empty).

    The ReLU's mask is taken from y; without y it is computed again from x.
    """
    x = dense(x)
    dy = laid_out_like(dy.to(x.dtype), x)
    if y is not None:
        y = laid_out_like(y, x)
    with forms.on_device_of(x):
        return forms.implementation(NAME, x.device).backward(dy, x, y, weight, bias, mean, var, eps, relu, training)


@_backward.register_fake
def _(
    dy: Any, x: torch.Tensor, y: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor, *_: Any
) -> tuple[torch.Tensor, ...]:
    like = dense(x)
    added = torch.empty_like(like) if y is not None else like.new_empty(0)
    return torch.empty_like(like), torch.empty_like(weight), torch.empty_like(bias), added


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    x, weight, bias, mean, var, residual, eps, relu = inputs
    y, batch_mean, batch_var = output
    masked = residual is not None and relu
    ctx.training = mean is None
    statistics = (batch_mean, batch_var) if ctx.training else (mean, var)
    ctx.save_for_backward(x, y if masked else None, weight, bias, *statistics)
    ctx.eps, ctx.relu, ctx.added = eps, relu, None if residual is None else residual.dtype
    ctx.mark_non_differentiable(batch_mean, batch_var)


def _gradient(ctx: Any, dy: torch.Tensor, *_: Any) -> tuple[Any, ...]:
    x, y, weight, bias, mean, var = ctx.saved_tensors
    dx, dweight, dbias, added = _backward(dy, x, y, weight, bias, mean, var, ctx.eps, ctx.relu, ctx.training)
    # without a ReLU the sum hands its gradient on as it is
    dresidual = None if ctx.added is None else (added if ctx.relu else dy).to(ctx.added)
    return dx, dweight, dbias, None, None, dresidual, None, None


_forward.register_autograd(_gradient, setup_context=_keep)
