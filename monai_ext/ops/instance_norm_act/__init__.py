"""Instance or group norm with affine, optional residual and LeakyReLU in one pass over memory, and its gradient."""

from __future__ import annotations

from typing import Any, Optional

import torch

from monai_ext.ops import forms
from monai_ext.ops.instance_norm_act import reference
from monai_ext.ops.layout import dense, laid_out_like

NAME = "instance_norm_act"


def instance_norm_act(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    residual: Optional[torch.Tensor] = None,  # noqa: UP045
    groups: int = 0,
    eps: float = 1e-5,
    negative_slope: float = 0.01,
    keep_output: bool = False,
) -> torch.Tensor:
    """`leaky_relu(norm(x) * weight + bias + residual)`.

    Ulyanov et al. 2016 (instance norm), Wu and He 2018 (group norm). The gradient needs x, or with `keep_output` the
    output instead: its activation is inverted (Rota Bulo et al. 2018, in-place activated batch norm), so that x is
    freed and one tensor per layer is kept instead of two. That costs the gradient of weight and bias precision where a
    weight is near zero: dx is exact for a weight of 0, the weight's own gradient is not.

    Args:
        x: `[B, C, *S]`, float32, bfloat16 or float16, in any dense layout (contiguous and channels last are read and
            written as they are, others are copied).
        weight, bias: `[C]` float32.
        residual: like x, or None.
        groups: channels are normalised in this many groups; 0 takes one per channel (instance norm).
        eps: added to the variance.
        negative_slope: of the LeakyReLU; 0 is ReLU, 1 is no activation.
        keep_output: keep the output for the gradient instead of the input; needs a slope above 0.

    Returns:
        `[B, C, *S]` in the type of x, from the fused forms also in its layout. Statistics are float32 sums, merged in
        float64.

    Raises:
        ValueError: shapes do not fit, `groups` does not divide the channels, or the slope cannot be inverted.
    """
    if torch.jit.is_scripting():
        return reference.instance_norm_act(x, weight, bias, residual, groups, eps, negative_slope)
    else:
        if torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
            return reference.instance_norm_act(x, weight, bias, residual, groups, eps, negative_slope)
        count = groups if groups > 0 else x.shape[1]
        _check(x, weight, bias, residual, count, negative_slope, keep_output)
        if x.numel() == 0:
            return x.clone()
        if x.dtype == torch.float64 or not forms.is_fused(NAME, x.device.type):
            return reference.instance_norm_act(x, weight, bias, residual, groups, eps, negative_slope)
        return _forward(x, weight, bias, residual, count, eps, negative_slope, keep_output)[0]


def _check(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    residual: torch.Tensor | None,
    groups: int,
    negative_slope: float,
    keep_output: bool,
) -> None:
    channels = x.shape[1]
    if weight.shape != (channels,) or bias.shape != (channels,):
        raise ValueError(
            f"weight {tuple(weight.shape)} and bias {tuple(bias.shape)} must be [{channels}], one a channel"
        )
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"residual {tuple(residual.shape)} must have the shape of x, {tuple(x.shape)}")
    if channels % groups:
        raise ValueError(f"{groups} groups do not divide {channels} channels")
    if keep_output and not negative_slope > 0:
        raise ValueError(f"keep_output inverts the activation: needs a slope above 0, got {negative_slope}")


@torch.library.custom_op("monai_ext::instance_norm_act", mutates_args=())
def _forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    residual: Optional[torch.Tensor],  # noqa: UP045
    groups: int,
    eps: float,
    negative_slope: float,
    keep_output: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output, and mean and reciprocal standard deviation `[B, groups]` float32."""
    x = dense(x)
    if residual is not None:
        residual = laid_out_like(residual, x)
    with forms.on_device_of(x):
        return forms.implementation(NAME, x.device).forward(x, weight, bias, residual, groups, eps, negative_slope)


@_forward.register_fake
def _(x: torch.Tensor, weight: Any, bias: Any, residual: Any, groups: int, *_: Any) -> tuple[torch.Tensor, ...]:
    statistics = x.new_empty((x.shape[0], groups), dtype=torch.float32)
    return torch.empty_like(dense(x)), statistics, torch.empty_like(statistics)


@torch.library.custom_op("monai_ext::instance_norm_act_backward", mutates_args=())
def _backward(
    dy: torch.Tensor,
    kept: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    residual: Optional[torch.Tensor],  # noqa: UP045
    mean: torch.Tensor,
    rstd: torch.Tensor,
    negative_slope: float,
    keep_output: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of x, weight, bias and residual (empty without one); `kept` is x, or y with `keep_output`."""
    kept = dense(kept)
    dy = laid_out_like(dy.to(kept.dtype), kept)
    if residual is not None:
        residual = laid_out_like(residual, kept)
    with forms.on_device_of(kept):
        return forms.implementation(NAME, kept.device).backward(
            dy, kept, weight, bias, residual, mean, rstd, negative_slope, keep_output
        )


@_backward.register_fake
def _(
    dy: Any, kept: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, residual: Any, *_: Any
) -> tuple[torch.Tensor, ...]:
    like = dense(kept)
    added = torch.empty_like(like) if residual is not None else like.new_empty(0)
    return torch.empty_like(like), torch.empty_like(weight), torch.empty_like(bias), added


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    x, weight, bias, residual, _, _, negative_slope, keep_output = inputs
    y, mean, rstd = output
    ctx.save_for_backward(y if keep_output else x, weight, bias, residual, mean, rstd)
    ctx.negative_slope, ctx.keep_output = negative_slope, keep_output
    ctx.mark_non_differentiable(mean, rstd)


def _gradient(ctx: Any, dy: torch.Tensor, *_: Any) -> tuple[Any, ...]:
    kept, weight, bias, residual, mean, rstd = ctx.saved_tensors
    dx, dweight, dbias, added = _backward(
        dy, kept, weight, bias, residual, mean, rstd, ctx.negative_slope, ctx.keep_output
    )
    return dx, dweight, dbias, added if residual is not None else None, None, None, None, None


_forward.register_autograd(_gradient, setup_context=_keep)
