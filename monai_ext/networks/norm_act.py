"""Norm with affine, optional residual and LeakyReLU as one module."""

from __future__ import annotations

import math
from typing import Any, Optional

import torch
from torch import nn

from monai_ext.ops.instance_norm_act import instance_norm_act

BATCH_NORMS: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
FUSED_NORMS = ("instance", "group")
NORMS = (*FUSED_NORMS, "batch")


class NormAct(nn.Module):
    """`leaky_relu(norm(x) * weight + bias + residual)` with one mean and variance per sample and group of channels.

    Parameters and results are those of `torch.nn.InstanceNorm3d(channels, affine=True)` or `torch.nn.GroupNorm`,
    followed by `torch.nn.LeakyReLU`.

    Args:
        channels: of the input.
        groups: of channels that share mean and variance; 0: every channel has its own (instance norm).
        negative_slope: of the LeakyReLU; 1 is no activation.
        keep_output: keep the output for the gradient instead of the input, see `instance_norm_act`.
    """

    def __init__(
        self, channels: int, groups: int = 0, negative_slope: float = 1.0, keep_output: bool = False, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.groups = groups
        self.negative_slope = float(negative_slope)
        self.keep_output = keep_output
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor, residual: Optional[torch.Tensor] = None) -> torch.Tensor:  # noqa: UP045
        """`[B, C, *S]` and a residual of the same shape -> `[B, C, *S]` in the type and layout of x."""
        return instance_norm_act(
            x, self.weight, self.bias, residual, self.groups, self.eps, self.negative_slope, self.keep_output
        )

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, groups={self.groups or len(self.weight)}, negative_slope={self.negative_slope}"


def norm_act(norm: str, dims: int, channels: int, negative_slope: float, keep_output: bool = False) -> list[nn.Module]:
    """Modules for `instance`, `group` (32 groups, fewer where 32 does not divide the channels) or `batch`.

    A slope of 1 leaves the activation out. The first module of the list holds the parameters.
    """
    if norm == "batch":
        activation = [] if negative_slope == 1 else [nn.LeakyReLU(negative_slope, inplace=True)]
        return [BATCH_NORMS[dims](channels), *activation]
    groups = math.gcd(32, channels) if norm == "group" else 0
    return [NormAct(channels, groups, negative_slope, keep_output and negative_slope > 0)]
