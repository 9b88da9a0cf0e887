"""Batch norm whose statistics are those of the batches of all processes, on processors too."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from monai_ext.engines import process_group


class SharedBatchNorm(_BatchNorm):
    """As `torch.nn.SyncBatchNorm`, which PyTorch has for GPUs only: on processors, and slower on any device.

    Names and shapes of weights are those of `torch.nn.BatchNorm2d` and its kin. Where a process is alone, and in
    evaluation mode, it computes what they compute.
    """

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"a batch norm needs [B, C, ...], got {input.dim()} axes")

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`[B, C, *S]` -> the same, in the type of the input."""
        if not self.training or process_group.world_size() == 1:
            return super().forward(input)
        y, mean, var, count = _Normalised.apply(input, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self._follow(mean, var * count / (count - 1).clamp_min(1))
        result: torch.Tensor = y
        return result

    @torch.no_grad()
    def _follow(self, mean: torch.Tensor, var: torch.Tensor) -> None:
        """Bring the statistics of a batch into the running ones."""
        state: Any = self
        state.num_batches_tracked.add_(1)
        # momentum None is the mean over all batches so far
        factor = self.momentum if self.momentum is not None else 1.0 / float(state.num_batches_tracked)
        state.running_mean.lerp_(mean.to(state.running_mean), factor)
        state.running_var.lerp_(var.to(state.running_var), factor)


class _Normalised(torch.autograd.Function):
    """Normalise by mean and variance of all processes; one message forward and one backward.

    The gradient of an input counts what it does to the losses of all processes, so that a mean over processes of the
    gradients of weights, as `DistributedDataParallel` takes it, is the gradient of the mean loss.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        values = x.float() if x.dtype != torch.float64 else x
        own_var, own_mean = torch.var_mean(values, _all_but_channels(x), correction=0)
        size = own_mean.new_full((1,), x.numel() / x.shape[1], dtype=torch.float64)
        message = torch.cat([own_mean.double(), own_var.double(), size])
        found = [torch.empty_like(message) for _ in range(process_group.world_size())]
        distributed.all_gather(found, message)
        means, variances, counts = torch.stack(found).split([x.shape[1], x.shape[1], 1], 1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        # squares of small deviations rather than differences of large squares
        var = (counts * (variances + (means - mean) ** 2)).sum(0) / count
        scale = (var + eps).rsqrt()
        normal = (values - _wide(mean.to(values), x)) * _wide(scale.to(values), x)
        y = normal if weight is None else normal * _wide(weight.to(values), x)
        y = y if bias is None else y + _wide(bias.to(values), x)
        ctx.save_for_backward(normal, weight, scale.to(values), count)
        ctx.input_type, ctx.biased = x.dtype, bias is not None
        ctx.mark_non_differentiable(mean, var, count)
        return y.to(x.dtype), mean, var, count

    @staticmethod
    def backward(
        ctx: Any, gradient: torch.Tensor, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, None]:
        normal, weight, scale, count = ctx.saved_tensors
        gradient = gradient.to(normal)
        axes = _all_but_channels(normal)
        own = torch.cat([gradient.sum(axes), (gradient * normal).sum(axes)])
        of_all = own.clone()
        distributed.all_reduce(of_all)
        of_bias, of_weight = (_wide(part / count, normal) for part in of_all.chunk(2))
        factor = scale if weight is None else scale * weight.to(scale)
        of_input = (gradient - of_bias - normal * of_weight) * _wide(factor, normal)
        own_bias, own_weight = own.chunk(2)
        return (
            of_input.to(ctx.input_type),
            None if weight is None else own_weight.to(weight),
            own_bias if ctx.biased else None,
            None,
        )


def with_shared_statistics(network: nn.Module) -> nn.Module:
    """Replace batch norms, weights and statistics kept; in place, apart from a network that is a batch norm itself."""
    if isinstance(network, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        shared = SharedBatchNorm(
            network.num_features, network.eps, network.momentum, network.affine, network.track_running_stats
        )
        for name, value in (*network._parameters.items(), *network._buffers.items()):
            setattr(shared, name, value)
        return shared.train(network.training)
    for name, child in network.named_children():
        setattr(network, name, with_shared_statistics(child))
    return network


def _all_but_channels(x: torch.Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _wide(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`[C]` -> `[1, C, 1, ...]`."""
    return values.view(1, -1, *[1] * (x.ndim - 2)).to(x.dtype)
