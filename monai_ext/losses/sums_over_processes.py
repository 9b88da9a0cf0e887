"""Sums of a loss over the batches of all processes, so that their ratio is that of the whole batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import distributed

from monai_ext.engines import process_group


def sums_over_processes(sums: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Add up tensors over the processes that train together, in one message; alone, give them back as they are.

    The gradient fits a training that averages the gradients of weights over the processes, as `DistributedDataParallel`
    does. Every process computes the same loss L of the same sums S, and so the same dL/dS. A process's share of the
    gradient of L is dL/dS times that of its own sums; since the average divides by the number of processes, the share
    is multiplied by it here. No message is needed in the backward pass.

    Args:
        sums: tensors of the same shapes and one dtype and device on every process; those that need a gradient get one.

    Returns:
        Tensors of the same shapes.
    """
    if process_group.world_size() == 1 or not sums:
        return list(sums)
    packed = torch.cat([values.detach().flatten() for values in sums])
    distributed.all_reduce(packed)
    totals = packed.split([values.numel() for values in sums])
    return [_WithTotal.apply(values, total.view_as(values)) for values, total in zip(sums, totals, strict=True)]


class _WithTotal(torch.autograd.Function):
    """The total as value; as gradient, that of the process's own sums times the number of processes."""

    @staticmethod
    def forward(ctx: object, own: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        del ctx, own
        return total.clone()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        del ctx
        return gradient * process_group.world_size(), None
