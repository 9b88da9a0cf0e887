"""Plain torch: batch norm, residual, ReLU. TorchScript can compile it."""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F  # noqa: N812


def batch_norm_act(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    mean: Optional[torch.Tensor],  # noqa: UP045 - TorchScript's spelling
    var: Optional[torch.Tensor],  # noqa: UP045
    residual: Optional[torch.Tensor],  # noqa: UP045
    eps: float,
    relu: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `monai_ext.ops.batch_norm_act.batch_norm_act`; statistics in float32, or float64 for float64."""
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    values, w, b = x.to(kind), weight.to(kind), bias.to(kind)
    if mean is None or var is None:
        # running statistics that forget everything at once are those of the batch
        mean = torch.zeros(x.size(1), dtype=kind, device=x.device)
        unbiased = torch.zeros(x.size(1), dtype=kind, device=x.device)
        y = F.batch_norm(values, mean, unbiased, w, b, True, 1.0, eps)
        count = x.numel() // x.size(1)
        var = unbiased * ((count - 1) / count)
    else:
        y = F.batch_norm(values, mean.to(kind), var.to(kind), w, b, False, 0.0, eps)
    if residual is not None:
        y = y + residual.to(kind)
    if relu:
        y = torch.relu(y)
    return y.to(x.dtype), mean, var
