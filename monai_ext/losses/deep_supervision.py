"""One loss over the outputs of several decoder levels at their own resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from monai_ext.losses.dice_cross_entropy import DiceCrossEntropy


class DeeplySupervised(nn.Module):
    """Weighted sum of a loss over outputs, finest first, with weights 1, 1/2, 1/4, ... normalised to sum 1.

    Labels are brought to the resolution of an output by taking the nearest voxel. The parts of the finest output's loss
    stay available in `last_parts` (detached) for logging.

    Args:
        loss: loss of one output.
    """

    def __init__(self, loss: DiceCrossEntropy) -> None:
        super().__init__()
        self.loss = loss
        self.last_parts: dict[str, torch.Tensor] = {}

    def forward(self, outputs: torch.Tensor | Sequence[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of outputs `[B, K, *S_i]` against labels `[B, 1, *S_0]`."""
        if isinstance(outputs, torch.Tensor):
            outputs = [outputs]
        weights = [0.5**i for i in range(len(outputs))]
        total = outputs[0].new_zeros((), dtype=torch.float32)
        levels = self.loss.parts_of_levels(outputs, [_nearest(labels, output.shape[2:]) for output in outputs])
        for i, ((dice, cross_entropy), weight) in enumerate(zip(levels, weights, strict=True)):
            total = total + weight / sum(weights) * (self.loss.dice_weight * dice + self.loss.ce_weight * cross_entropy)
            if i == 0:
                term = "focal" if self.loss.focal_gamma else "cross_entropy"
                self.last_parts = {"dice": dice.detach(), term: cross_entropy.detach()}
        return total


def _nearest(labels: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Pick the voxel under each coarse voxel's centre; exact integer arithmetic, any dtype."""
    for axis, size in enumerate(shape, start=2):
        full = labels.shape[axis]
        if full != size:
            index = ((2 * torch.arange(size, device=labels.device) + 1) * full) // (2 * size)
            labels = labels.index_select(axis, index)
    return labels
