"""Dice + cross-entropy (or focal loss) from integer label maps, without a one-hot copy of the labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from monai_ext.errors import InputError


class DiceCrossEntropy(nn.Module):
    """Soft Dice loss over the foreground classes plus voxel-wise cross-entropy.

    With p = softmax(logits), per foreground class c, over the voxels of one sample or (batch Dice) of the batch::

        dice_c = (2 sum p_c [y = c] + s) / (sum p_c + sum [y = c] + s)
        loss   = dice_weight * mean_c(1 - dice_c) + ce_weight * mean(-log p_y)

    Drozdzal et al. 2016 (soft Dice), Isensee et al. 2021 (sum of both, batch Dice). With `focal_gamma` g > 0 every
    voxel's -log p_y is multiplied by (1 - p_y)^g, so that voxels already right count little (Lin et al. 2017; g = 2
    there and in the nnU-Net of NVIDIA DeepLearningExamples 2021).

    Args:
        batch_dice: sum the Dice terms over the batch before dividing.
        ignore_index: label of voxels that count in neither term; None if every voxel counts.
        num_classes: checked against `class_weights` if given.
        class_weights: one weight per class for the cross-entropy (weighted mean, as in `torch.nn.CrossEntropyLoss`).
        smooth: s above.
        dice_weight, ce_weight: weights of the two terms.
        focal_gamma: g above; 0 is plain cross-entropy. Between 0 and 1 the gradient has a pole at p_y = 1.

    Raises:
        InputError: `class_weights` do not fit the classes.
        ValueError: `focal_gamma` is negative or within (0, 1).
    """

    class_weights: torch.Tensor | None

    def __init__(
        self,
        batch_dice: bool = False,
        ignore_index: int | None = None,
        class_weights: Sequence[float] | None = None,
        num_classes: int | None = None,
        smooth: float = 1e-5,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
        focal_gamma: float = 0.0,
    ) -> None:
        super().__init__()
        if focal_gamma != 0 and not focal_gamma >= 1:
            raise ValueError(f"focal_gamma must be 0 or at least 1, got {focal_gamma}")
        self.batch_dice = batch_dice
        self.ignore_index = ignore_index
        self.smooth = smooth
        self.dice_weight = dice_weight
        self.ce_weight = ce_weight
        self.focal_gamma = focal_gamma
        if class_weights is not None and num_classes is not None:
            numbers = all(isinstance(w, int | float) and w >= 0 for w in class_weights)
            if len(class_weights) != num_classes or not numbers:
                raise InputError(
                    f"--class_weights {list(class_weights)}: needs {num_classes} numbers from 0 on, background first. "
                    "Cure: one weight per class"
                )
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss.

        Args:
            logits: `[B, K, *S]`, any float dtype; computed in float32.
            labels: `[B, 1, *S]` or `[B, *S]`, any integer dtype, values 0 .. K-1 or `ignore_index`.

        Raises:
            ValueError: shapes do not fit, or a label has no class.
        """
        dice, cross_entropy = self.parts(logits, labels)
        return self.dice_weight * dice + self.ce_weight * cross_entropy

    def parts(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (Dice loss, cross-entropy or focal loss), unweighted, for logging."""
        if labels.ndim == logits.ndim:
            labels = labels[:, 0]
        if labels.shape != logits.shape[:1] + logits.shape[2:]:
            raise ValueError(f"labels {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}")
        batch, classes = logits.shape[:2]
        log_p = torch.log_softmax(logits.float().flatten(2), dim=1)
        target = labels.reshape(batch, 1, -1).long()
        if self.ignore_index is None:
            valid = None
        else:
            valid = (target != self.ignore_index).float()
            target = target.masked_fill(target == self.ignore_index, 0)
        if target.device.type == "cpu":  # on CUDA reading the extremes would wait for the device; gather asserts there
            low, high = (int(v) for v in target.aminmax())
            if low < 0 or high >= classes:
                raise ValueError(f"labels reach from {low} to {high}, network has {classes} classes")
        log_p_target = log_p.gather(1, target)
        weight = valid if self.class_weights is None else self.class_weights[target] * (1.0 if valid is None else valid)
        term = log_p_target
        if self.focal_gamma:
            # 1 - p from log p without cancellation; only the target's class is touched, one value a voxel
            term = (-torch.expm1(log_p_target)).pow(self.focal_gamma) * log_p_target
        cross_entropy = -term.mean() if weight is None else -(term * weight).sum() / weight.sum().clamp_min(1e-8)
        return self._dice(log_p, log_p_target, target, valid), cross_entropy

    def _dice(
        self, log_p: torch.Tensor, log_p_target: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None
    ) -> torch.Tensor:
        p = log_p.exp()
        p_target = log_p_target.exp()
        ones = torch.ones_like(p_target)
        if valid is not None:
            p, p_target, ones = p * valid, p_target * valid, ones * valid
        zeros = torch.zeros(log_p.shape[:2], dtype=log_p.dtype, device=log_p.device)
        # [B, K]: the target's probability is added to the row of its own class, so no one-hot labels exist
        intersection = zeros.scatter_add(1, target[:, 0], p_target[:, 0])[:, 1:]
        reference = zeros.scatter_add(1, target[:, 0], ones[:, 0])[:, 1:]
        predicted = p.sum(dim=2)[:, 1:]
        if self.batch_dice:
            intersection, reference, predicted = intersection.sum(0), reference.sum(0), predicted.sum(0)
        return 1 - ((2 * intersection + self.smooth) / (predicted + reference + self.smooth)).mean()
