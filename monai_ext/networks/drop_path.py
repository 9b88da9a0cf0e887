"""Stochastic depth: residual branches that are left out at random while training."""

from __future__ import annotations

import torch
from torch import nn


class DropPath(nn.Module):
    """Leave a residual branch out, for each sample by itself (Huang et al. 2016, stochastic depth).

    What stays is divided by the chance to stay, so that the expectation is the branch itself. Nothing happens in
    evaluation. Random numbers come from torch's generator of the input's device.

    Args:
        chance: of a sample's branch to be left out, at least 0 and below 1.

    Raises:
        ValueError: the chance is out of range.
    """

    __constants__ = ["chance"]  # noqa: RUF012 - TorchScript's spelling

    def __init__(self, chance: float) -> None:
        super().__init__()
        if not 0 <= chance < 1:
            raise ValueError(f"drop path: the chance must be at least 0 and below 1, got {chance}")
        self.chance = float(chance)

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        """`[B, C, *S]` -> the same, zero in some of the samples."""
        if not self.training or self.chance == 0.0:
            return branch
        keep = 1.0 - self.chance
        shape = [branch.shape[0]] + [1] * (branch.dim() - 1)
        return branch * (torch.rand(shape, device=branch.device) < keep).to(branch.dtype).div(keep)

    def extra_repr(self) -> str:
        return f"{self.chance:g}"
