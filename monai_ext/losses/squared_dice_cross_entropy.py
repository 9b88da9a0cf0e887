"""Cross-entropy plus Dice with squared denominators over all classes, background included."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from monai_ext.evaluation.soft_dice import soft_dice


class SquaredDiceCrossEntropy(nn.Module):
    """Loss of NVIDIA's UNet Medical (2021): mean cross-entropy + (1 - mean Dice over samples and both classes).

    The Dice of a sample and class is (2 sum p t + e) / (sum p^2 + sum t^2 + e) with p = softmax(logits) (Milletari et
    al. 2016), computed in float32. `last_parts` holds both terms, detached, for logging.

    Args:
        ignore_index: pixels with this label count in neither term.
    """

    def __init__(self, ignore_index: int = -1) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.last_parts: dict[str, torch.Tensor] = {}

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scalar loss of logits `[B, K, H, W]` against integer labels `[B, 1, H, W]`."""
        logits = logits.float()
        labels = labels.long()
        cross_entropy = F.cross_entropy(logits, labels[:, 0], ignore_index=self.ignore_index)
        counted = labels != self.ignore_index
        dice = 1 - soft_dice(logits.softmax(1) * counted, labels).mean()
        self.last_parts = {"cross_entropy": cross_entropy.detach(), "dice": dice.detach()}
        return cross_entropy + dice
