"""Normalisation layers of the detector, and a convolution with one and a ReLU behind it."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from monai_ext.networks.fused_batch_norm import norm_act
from monai_ext.ops.instance_norm_act import instance_norm_act
from monai_ext.planning.instance_plan import NORMS

MOST_GROUPS = 32
EPS = 1e-5


class FrozenBatchNorm(nn.Module):
    """Batch normalisation whose statistics and affine are those of a weight file and never change.

    `y = x s + t` with `s = weight / sqrt(running_var + eps)` and `t = bias - running_mean s`. All four are buffers, so
    no optimiser finds them. He et al. 2017 train this way, since a GPU holds too few images for statistics.

    Args:
        channels: of the input `[B, C, ...]`.
        eps: added to the variance; 0 for files of the first torchvision releases.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def scale_and_shift(self) -> tuple[torch.Tensor, torch.Tensor]:
        """s and t, each `[C]`."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"


def make_norm(norm: str, channels: int) -> nn.Module:
    """Layer of a plan's `norm`.

    Args:
        norm: `group`, `batch` or `frozen_batch`; `none` for an identity.
        channels: of the input `[B, C, H, W]`.

    Raises:
        ValueError: the name is unknown.
    """
    if norm == "group":
        return nn.GroupNorm(norm_groups(channels), channels, eps=EPS)
    if norm == "batch":
        return nn.BatchNorm2d(channels, eps=EPS)
    if norm == "frozen_batch":
        return FrozenBatchNorm(channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm {norm!r} is not one of {', '.join(NORMS)}, none")


def norm_groups(channels: int) -> int:
    """Groups of a group norm: 32 from 64 channels on (Wu and He 2018), fewer below; always a divisor.

    >>> [norm_groups(channels) for channels in (256, 64, 32, 16, 96, 5)]
    [32, 32, 8, 4, 32, 1]
    """
    most = MOST_GROUPS if channels >= 2 * MOST_GROUPS else max(1, channels // 4)
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


def conv_norm_act(
    conv: nn.Conv2d,
    norm: nn.Module,
    x: torch.Tensor,
    residual: torch.Tensor | None = None,
    relu: bool = True,
    fused: bool = True,
) -> torch.Tensor:
    """`relu(norm(conv(x)) + residual)`.

    Where the features are more than the kernels, a frozen norm is multiplied into these, which saves a pass over the
    features and their copy for the gradient; the gradient of the kernels comes out as it would otherwise, but for the
    rounding. Group and batch norms take residual and ReLU along.

    Args:
        conv, norm: one behind the other.
        x: `[B, C, H, W]`.
        residual: of the result's shape.
        relu: whether the ReLU follows.
        fused: whether the ops of this package may be used; they are on CUDA, where torch's group norm copies
            channels-last features and is computed in float32 under autocast. On the CPU torch's layers are as fast.

    Returns:
        `[B, C', H', W']` in the type of the convolution's result.
    """
    frozen = norm if isinstance(norm, FrozenBatchNorm) and _folds(conv, norm, x) else None
    y = conv(x) if frozen is None else _folded(conv, frozen, x)
    if residual is not None:
        residual = residual.to(y.dtype)  # under autocast the shortcut may be of another type
    fused = fused and _gains(y) and not norm._forward_hooks
    if fused and type(norm) is nn.GroupNorm and norm.weight.dtype == torch.float32:
        slope = 0.0 if relu else 1.0
        return instance_norm_act(y, norm.weight, norm.bias, residual, norm.num_groups, norm.eps, slope)
    if fused and isinstance(norm, nn.BatchNorm2d):
        return norm_act(y, norm, residual, relu)
    # in place: neither a convolution nor a norm needs its result for the gradient
    y = norm(y) if frozen is None else y
    if residual is not None:
        y = y.add_(residual)
    return F.relu(y, inplace=True) if relu else y


def _gains(y: torch.Tensor) -> bool:
    """On a processor torch's own norm is as fast in inference, but only in float32."""
    return y.device.type != "cpu" or torch.is_grad_enabled() or y.dtype != torch.float32


def _folds(conv: nn.Conv2d, norm: nn.Module, x: torch.Tensor) -> bool:
    if conv._forward_hooks or norm._forward_hooks:  # which expect to be called
        return False
    if torch.jit.is_tracing() or torch.compiler.is_compiling():  # for one size, what is made serves for all
        return True
    pixels = x.shape[0] * x.shape[2] * x.shape[3] // (conv.stride[0] * conv.stride[1])
    return pixels >= conv.weight[0].numel()


def _folded(conv: nn.Conv2d, norm: FrozenBatchNorm, x: torch.Tensor) -> torch.Tensor:
    scale, shift = norm.scale_and_shift()
    bias = shift if conv.bias is None else conv.bias * scale + shift
    weight = conv.weight * scale[:, None, None, None]
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
