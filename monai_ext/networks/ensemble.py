"""Several trained networks as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


class ProbabilityMean(nn.Module):
    """Logarithm of the mean of the networks' class probabilities, so that its softmax is that mean.

    Args:
        networks: each maps `[B, C, *S]` to logits `[B, K, *S']`; at least one.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        if not networks:
            raise ValueError("an ensemble needs at least one network")
        self.networks = nn.ModuleList(networks)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map `[B, C, *S]` to log-probabilities `[B, K, *S']` float32."""
        logs = torch.stack([network(image).float().log_softmax(1) for network in self.networks])
        return torch.logsumexp(logs, 0) - torch.log(torch.tensor(float(len(self.networks)), device=logs.device))


class SigmoidMean(ProbabilityMean):
    """As `ProbabilityMean` for outputs that do not exclude one another: its sigmoid is the mean of theirs."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map `[B, C, *S]` to logits `[B, K, *S']` float32."""
        logits = torch.stack([network(image).float() for network in self.networks])
        # both logarithms by themselves: a probability next to 1 would round to it
        return torch.logsumexp(F.logsigmoid(logits), 0) - torch.logsumexp(F.logsigmoid(-logits), 0)
