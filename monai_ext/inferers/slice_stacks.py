"""Volumes as stacks of slices, for networks of one axis less, and meta data that outlive a prediction."""

from __future__ import annotations

import torch
from monai.data.meta_tensor import MetaTensor


def slices_of(volume: torch.Tensor) -> torch.Tensor:
    """`[B, C, D, *S]` to `[B * D, C, *S]`."""
    plain = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
    return plain.transpose(1, 2).flatten(0, 1)


def stacked(slices: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """`[B * D, K, *S]` back to `[B, K, D, *S]`, with the meta data of the input if that had any."""
    stack = slices.unflatten(0, (inputs.shape[0], inputs.shape[2])).transpose(1, 2).contiguous()
    return with_meta_of(inputs, stack)


def with_meta_of(inputs: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    if isinstance(inputs, MetaTensor):
        return MetaTensor(result).copy_meta_from(inputs)
    return result
