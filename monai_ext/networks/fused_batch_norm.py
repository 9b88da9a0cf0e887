"""Batch norm with what follows it in one op, for norms that modules hold: what `torch.nn.BatchNorm2d` does beside."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from monai_ext.ops.batch_norm_act import batch_norm_act
from monai_ext.ops.se_gate import se_gate

# a synchronised norm is a class of its own and must stay one
_PLAIN_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def norm_act(x: torch.Tensor, norm: Any, residual: torch.Tensor | None = None, relu: bool = True) -> torch.Tensor:
    """`relu(norm(x) + residual)`.

    Args:
        x: `[B, C, *S]`.
        norm: batch norm, whose running statistics are updated as `norm(x)` would; any other module is called.
        residual: like x.
        relu: whether the ReLU follows.

    Returns:
        `[B, C, *S]` in the type of x.
    """
    if not _fits(norm, x):
        y = norm(x)
        y = y if residual is None else y + residual
        return F.relu(y, inplace=y is not x) if relu else y
    mean, var, eps = _statistics(norm)
    y, batch_mean, batch_var = batch_norm_act(x, norm.weight, norm.bias, mean, var, _like(residual, x), eps, relu)
    if mean is None:
        update_running_statistics(norm, batch_mean, batch_var, x.numel() // x.shape[1])
    return y


def gate_act(x: torch.Tensor, norm: Any, fc: nn.Sequential, residual: torch.Tensor) -> torch.Tensor:
    """`relu(n * fc(mean(n)) + residual)` with `n = norm(x)`, the mean over space.

    Args:
        x: `[B, C, *S]`.
        norm: batch norm, updated as by `norm(x)`; an identity where it was folded; any other module is called.
        fc: linear, ReLU, linear and sigmoid on `[B, C]`.
        residual: like x.

    Returns:
        `[B, C, *S]` in the type of x.
    """
    folded = isinstance(norm, nn.Identity)
    hidden: Any = fc[0]
    gate: Any = fc[2]
    if not (_fits(norm, x) or (folded and _is_float32(hidden.weight))):
        n = norm(x)
        scale = fc(n.flatten(2).mean(2))
        return F.relu(n * scale.reshape(list(scale.shape) + [1] * (x.dim() - 2)) + residual, inplace=True)
    weights = (hidden.weight, hidden.bias, gate.weight, gate.bias, _like(residual, x))
    if folded:
        return se_gate(x, *weights)[0]
    mean, var, eps = _statistics(norm)
    y, batch_mean, batch_var = se_gate(x, *weights, norm.weight, norm.bias, mean, var, eps, training=mean is None)
    if mean is None:
        update_running_statistics(norm, batch_mean, batch_var, x.numel() // x.shape[1])
    return y


@torch.no_grad()
def update_running_statistics(norm: Any, mean: torch.Tensor, var: torch.Tensor, count: int) -> None:
    """Bring the statistics of a batch into those of a norm, as `torch.nn.BatchNorm2d` does in training.

    Args:
        norm: batch norm; without running statistics nothing happens.
        mean: of the batch, `[C]`.
        var: of the batch, `[C]`, divided by `count`; the running variance is the unbiased one.
        count: values a channel, above 1.
    """
    if norm.running_mean is None:
        return
    norm.num_batches_tracked.add_(1)
    # momentum None is the mean over all batches so far
    factor = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean, factor)
    norm.running_var.mul_(1 - factor).add_(var, alpha=factor * count / (count - 1))


def _fits(norm: Any, x: torch.Tensor) -> bool:
    """Whether the ops compute this norm; in training a single value a channel is an error that torch words."""
    if type(norm) not in _PLAIN_NORMS or not norm.affine or not _is_float32(norm.weight):
        return False
    return not (_takes_batch(norm) and x.numel() <= x.shape[1])


def _is_float32(weight: torch.Tensor) -> bool:
    return weight.dtype == torch.float32


def _takes_batch(norm: Any) -> bool:
    return norm.training or norm.running_mean is None


def _statistics(norm: Any) -> tuple[torch.Tensor | None, torch.Tensor | None, float]:
    return (None, None, norm.eps) if _takes_batch(norm) else (norm.running_mean, norm.running_var, norm.eps)


def _like(residual: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    """Under autocast a shortcut may be of another type than the branch."""
    return residual if residual is None else residual.to(x.dtype)
