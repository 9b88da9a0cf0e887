"""Plain torch: instance or group norm, residual, LeakyReLU. TorchScript can compile it."""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F  # noqa: N812


def instance_norm_act(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    residual: Optional[torch.Tensor],  # noqa: UP045 - TorchScript's spelling
    groups: int,
    eps: float,
    negative_slope: float,
) -> torch.Tensor:
    """See `monai_ext.ops.instance_norm_act.instance_norm_act`; statistics in float32, or float64 for float64.

    The batch must not be empty.
    """
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    values = x.to(kind)
    if groups == 0:
        y = torch.instance_norm(values, weight.to(kind), bias.to(kind), None, None, True, 0.0, eps, True)
    else:
        y = torch.group_norm(values, groups, weight.to(kind), bias.to(kind), eps)
    if residual is not None:
        y = y + residual.to(kind)
    if negative_slope != 1.0:
        y = F.leaky_relu(y, negative_slope)
    return y.to(x.dtype)
