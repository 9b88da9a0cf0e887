"""Head that names the object in a region and improves its box."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from monai_ext.networks.mask_rcnn.norm import conv_norm_act, make_norm
from monai_ext.planning.instance_plan import BOX_HEADS

POOLED = 7  # bins along each axis
CONVOLUTIONS = 4


class BoxHead(nn.Module):
    """Scores of all classes and a box per class from the features of a region (Girshick 2015; He et al. 2017).

    `fc`: two fully connected layers. `conv`: four 3x3 convolutions and a fully connected layer (Wu and He 2018).

    Args:
        channels: of the features.
        num_classes: without background.
        features: of the fully connected layers.
        kind: `fc` or `conv`.
        norm: of the convolutions, see `make_norm`.
        fused: see `conv_norm_act`.

    Raises:
        ValueError: the kind is unknown.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        features: int = 1024,
        kind: str = "fc",
        norm: str = "none",
        fused: bool = True,
    ) -> None:
        super().__init__()
        if kind not in BOX_HEADS:
            raise ValueError(f"box head {kind!r} is not one of {', '.join(BOX_HEADS)}")
        self.num_classes, self.kind, self.fused = num_classes, kind, fused
        count = CONVOLUTIONS if kind == "conv" else 0
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, bias=norm == "none") for _ in range(count)
        )
        self.norms = nn.ModuleList(make_norm(norm, channels) for _ in range(count))
        self.fc1 = nn.Linear(channels * POOLED * POOLED, features)
        self.fc2 = nn.Linear(features, features) if kind == "fc" else nn.Identity()
        self.cls_score = nn.Linear(features, num_classes + 1)
        self.bbox_pred = nn.Linear(features, 4 * num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, a=1)
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of every region.

        Args:
            x: `[R, C, 7, 7]`.

        Returns:
            logits `[R, K + 1]`, background first, and deltas `[R, K, 4]`, in the type of x or of autocast.
        """
        pairs: Iterable[Any] = zip(self.convs, self.norms, strict=True)
        for conv, norm in pairs:
            x = conv_norm_act(conv, norm, x, fused=self.fused)
        # regions come channels last: the weights are reordered, which are fewer than the features of all regions
        weight = self.fc1.weight.unflatten(1, x.shape[1:]).permute(0, 2, 3, 1).flatten(1)
        x = F.relu(F.linear(x.permute(0, 2, 3, 1).flatten(1), weight, self.fc1.bias), inplace=True)
        if self.kind == "fc":
            x = F.relu(self.fc2(x), inplace=True)
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (self.num_classes, 4))
