"""A network that computes in 16 bits between inputs and outputs in 32."""

from __future__ import annotations

import copy

import torch
from torch import nn

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class HalfPrecision(nn.Module):
    """Weights and activations of a copy of a network in another type; floating inputs are cast, outputs are float32.

    Args:
        network: float32; not changed.
        dtype: `torch.float16` or `torch.bfloat16`.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to(dtype)
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, ...]` of any floating type to what the network gives, in float32."""
        return self.network(x.to(self.dtype)).to(torch.float32)
