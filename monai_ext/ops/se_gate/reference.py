"""Plain torch: batch norm, squeeze, gate, scale, residual, ReLU. TorchScript can compile it."""

from __future__ import annotations

from typing import Optional

import torch


def se_gate(
    x: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
    residual: Optional[torch.Tensor],  # noqa: UP045 - TorchScript's spelling
    norm_weight: Optional[torch.Tensor],  # noqa: UP045
    norm_bias: Optional[torch.Tensor],  # noqa: UP045
    mean: Optional[torch.Tensor],  # noqa: UP045
    var: Optional[torch.Tensor],  # noqa: UP045
    eps: float,
    training: bool,
    relu: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `monai_ext.ops.se_gate.se_gate`; computed in float32, or float64 for float64. The batch must not be empty."""
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    values = x.to(kind)
    batch_mean, batch_var = values.new_zeros(0), values.new_zeros(0)
    if norm_weight is not None and norm_bias is not None:
        weight, bias = norm_weight.to(kind), norm_bias.to(kind)
        if training:
            values, batch_mean, rstd = torch.native_batch_norm(values, weight, bias, None, None, True, 0.0, eps)
            batch_mean = batch_mean.detach()
            # one pass less than to ask for the variance itself
            batch_var = (rstd.detach().pow(-2) - eps).clamp_min(0)
        elif mean is not None and var is not None:
            batch_mean, batch_var = mean, var
            values = torch.batch_norm(values, weight, bias, mean.to(kind), var.to(kind), False, 0.0, eps, True)
    squeezed = values.mean(dim=list(range(2, values.dim())))
    hidden = torch.relu(torch.nn.functional.linear(squeezed, w1.to(kind), b1.to(kind)))
    gate = torch.sigmoid(torch.nn.functional.linear(hidden, w2.to(kind), b2.to(kind)))
    y = values * gate.reshape(list(gate.shape) + [1] * (values.dim() - 2))
    if residual is not None:
        y = y + residual.to(kind)
    if relu:
        y = torch.relu(y)
    return y.to(x.dtype), batch_mean, batch_var
