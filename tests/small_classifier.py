"""A classifier small enough for tests, whose norms count."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from monai_ext.networks.se_resnext import SeResNeXt

SMALL: dict[str, Any] = {
    "layers": (1, 2, 1, 1), "base_features": 16, "groups": 4, "group_width": 8, "se_ratio": 16,
}  # fmt: skip


def small(dims: int = 2, channels: int = 1, classes: int = 3, **changes: Any) -> SeResNeXt:
    """Five blocks; the same weights at every call."""
    torch.manual_seed(0)
    return SeResNeXt(dims, channels, classes, **{**SMALL, **changes})


def with_statistics(network: Any) -> Any:
    """Norms other than the identity: drawn weights, biases and running statistics."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            if module.track_running_stats:
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 2)
    return network
