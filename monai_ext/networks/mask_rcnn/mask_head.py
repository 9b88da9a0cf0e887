"""Head that outlines the object in a region."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from monai_ext.networks.mask_rcnn.norm import conv_norm_act, make_norm

CONVOLUTIONS = 4


class MaskHead(nn.Module):
    """Four 3x3 convolutions, a transposed one of stride 2 and a 1x1 to a mask per class (He et al. 2017, figure 4).

    Args:
        channels: of the features.
        num_classes: without background.
        features: of the head.
        norm: see `make_norm`.
        fused: see `conv_norm_act`.
    """

    def __init__(
        self, channels: int, num_classes: int, features: int = 256, norm: str = "none", fused: bool = True
    ) -> None:
        super().__init__()
        self.num_classes, self.fused = num_classes, fused
        self.convs = nn.ModuleList(
            nn.Conv2d(features if index else channels, features, 3, padding=1, bias=norm == "none")
            for index in range(CONVOLUTIONS)
        )
        self.norms = nn.ModuleList(make_norm(norm, features) for _ in range(CONVOLUTIONS))
        self.deconv = nn.ConvTranspose2d(features, features, 2, 2)
        self.logits = nn.Conv2d(features, num_classes, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for layer in (*self.convs, self.deconv, self.logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Masks of one class per region; those of the others are not computed.

        Args:
            x: `[R, C, P, P]`.
            labels: `[R]` int64, 1 to K.

        Returns:
            logits `[R, 2 P, 2 P]` in the type of x or of autocast.
        """
        pairs: Iterable[Any] = zip(self.convs, self.norms, strict=True)
        for conv, norm in pairs:
            x = conv_norm_act(conv, norm, x, fused=self.fused)
        # both as products of matrices over the pixels, whose channels lie side by side: faster than the convolutions,
        # and the four pixels that a pixel becomes are put in their places last, when they are single numbers
        count, channels, height, width = x.shape
        spread = self.deconv.weight.permute(2, 3, 1, 0).reshape(-1, channels)
        bias = None if self.deconv.bias is None else self.deconv.bias.repeat(4)
        fine = F.relu(F.linear(x.permute(0, 2, 3, 1).reshape(-1, channels), spread, bias), inplace=True)
        weight, shift = self.logits.weight.flatten(1), self.logits.bias
        if self.num_classes == 1:
            found = F.linear(fine.view(4 * fine.shape[0], weight.shape[1]), weight, shift)
        else:
            chosen = labels - 1
            found = torch.bmm(
                fine.view(count, 4 * height * width, weight.shape[1]), weight[chosen].to(fine.dtype)[:, :, None]
            )
            if shift is not None:
                found = found + shift[chosen][:, None, None].to(found.dtype)
        found = found.view(count, height, width, 2, 2).transpose(2, 3)
        return found.reshape(count, 2 * height, 2 * width)
