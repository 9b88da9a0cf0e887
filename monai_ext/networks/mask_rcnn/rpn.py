"""Head of a region proposal network: for every anchor, whether an object is there and how its box differs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


class RPNHead(nn.Module):
    """One 3x3 convolution, ReLU and two 1x1 convolutions, shared by all levels (Ren et al. 2015; Lin et al. 2017).

    Anchors of an image are numbered as `AnchorGrid` orders them: level after level, rows, columns, anchors of a cell.

    Args:
        channels: of the features.
        per_cell: anchors of a cell, the same on all levels.
    """

    def __init__(self, channels: int, per_cell: int) -> None:
        super().__init__()
        self.channels, self.per_cell = channels, per_cell
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.cls_logits = nn.Conv2d(channels, per_cell, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * per_cell, 1)
        for layer in (self.conv, self.cls_logits, self.bbox_pred):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Of all anchors.

        Args:
            features: one `[B, C, H, W]` per level; channels last is read as it is.

        Returns:
            one `[B, H * W * A]` of logits and one `[B, H * W * A, 4]` of deltas per level.
        """
        logits, deltas = [], []
        weight, bias = self._outputs()
        for level in features:
            hidden = F.relu(self.conv(level), inplace=not torch.is_grad_enabled())
            found = F.linear(hidden.permute(0, 2, 3, 1), weight, bias)
            logits.append(found[..., : self.per_cell].flatten(1))
            deltas.append(found[..., self.per_cell :].reshape(found.shape[0], -1, 4))
        return logits, deltas

    def of_anchors(
        self, features: Sequence[torch.Tensor], images: torch.Tensor, anchors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of a few anchors, from the 3x3 windows around their cells alone.

        A loss reads some hundred of the hundred thousands of anchors; the gradient of `forward` would be computed for
        all of them, nearly all of it zeros.

        Args:
            features: as in `forward`.
            images: `[S]` int64, number of the image in the batch.
            anchors: `[S]` int64, number of the anchor within the image.

        Returns:
            logits `[S]` and deltas `[S, 4]`.
        """
        windows = _windows(features, images, anchors // self.per_cell)
        kernel = self.conv.weight.permute(0, 2, 3, 1).flatten(1)
        hidden = F.relu(F.linear(windows, kernel, self.conv.bias))
        found = F.linear(hidden, *self._outputs())
        kind = (anchors % self.per_cell)[:, None]
        logits = found[:, : self.per_cell].gather(1, kind)[:, 0]
        deltas = found[:, self.per_cell :].unflatten(1, (self.per_cell, 4))
        return logits, deltas.gather(1, kind[:, :, None].expand(-1, 1, 4))[:, 0]

    def _outputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight `[5 A, C]` and bias of both 1x1 convolutions, so that the features are read once."""
        weights, biases = zip(*(layer.parameters() for layer in (self.cls_logits, self.bbox_pred)), strict=True)
        return torch.cat(weights).flatten(1), torch.cat(biases)


def _windows(features: Sequence[torch.Tensor], images: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """3x3 windows `[S, 9 * C]` around cells, numbered over all levels, with zeros around the maps."""
    window = torch.arange(9, device=cells.device)  # in the order of the weights
    down, right = window // 3 - 1, window % 3 - 1
    windows, first = None, 0
    for level in features:
        _, channels, height, width = level.shape
        # every level is asked for all cells, and those of others are set to 0: no number has to be read from the device
        place = cells - first
        here = (place >= 0) & (place < height * width)
        y = (place // width)[:, None] + down
        x = (place % width)[:, None] + right
        used = here[:, None] & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        row = torch.where(used, (images[:, None] * height + y) * width + x, 0)
        matrix = level.permute(0, 2, 3, 1).reshape(-1, channels)
        part = torch.where(used[:, :, None], matrix.index_select(0, row.flatten()).view(*row.shape, channels), 0)
        windows = part if windows is None else windows + part
        first += height * width
    assert windows is not None
    return windows.flatten(1)
