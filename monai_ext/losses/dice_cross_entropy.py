"""Dice + cross-entropy (or focal loss) from integer label maps, without a one-hot copy of the labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from monai_ext.errors import InputError
from monai_ext.losses.sums_over_processes import sums_over_processes
from monai_ext.ops.dice_cross_entropy import ACTIVATIONS, dice_cross_entropy_sums


class DiceCrossEntropy(nn.Module):
    """Soft Dice loss over the foreground classes plus voxel-wise cross-entropy.

    With p = softmax(logits), per foreground class c, over the voxels of one sample or (batch Dice) of the batch::

        dice_c = (2 sum p_c [y = c] + s) / (sum p_c + sum [y = c] + s)
        loss   = dice_weight * mean_c(1 - dice_c) + ce_weight * mean(-log p_y)

    Drozdzal et al. 2016 (soft Dice), Isensee et al. 2021 (sum of both, batch Dice). With `focal_gamma` g > 0 every
    voxel's -log p_y is multiplied by (1 - p_y)^g, so that voxels already right count little (Lin et al. 2017; g = 2
    there and in the nnU-Net of NVIDIA DeepLearningExamples 2021).

    Where several processes train together, the batch is that of all: what is not a mean over parts of one size (batch
    Dice, and the mean over voxels if some are ignored or weigh more than others) is made of sums over all processes,
    see `sums_over_processes`. Every process then has the loss of the whole batch; without such sums each has that of
    its own part, and their mean is that of the whole.

    Args:
        batch_dice: sum the Dice terms over the batch before dividing.
        ignore_index: label of voxels that count in neither term; None if every voxel counts.
        num_classes: checked against `class_weights` if given.
        class_weights: one weight per class for the cross-entropy (weighted mean, as in `torch.nn.CrossEntropyLoss`).
        smooth: s above.
        dice_weight, ce_weight: weights of the two terms.
        focal_gamma: g above; 0 is plain cross-entropy. Between 0 and 1 the gradient has a pole at p_y = 1.
        activation: `softmax`, or `sigmoid`: every class for itself, and instead of the cross-entropy the mean over
            voxels and classes of the binary one (`torch.nn.BCEWithLogitsLoss`), or of the binary focal loss.
        label_smoothing: share of the target that the voxel-wise term spreads evenly over the classes, as in
            `torch.nn.CrossEntropyLoss` (Szegedy et al. 2016); with `sigmoid`, targets are drawn towards 1/2 by it. Dice
            sees the labels themselves.

    Raises:
        InputError: `class_weights` do not fit the classes.
        ValueError: `focal_gamma` is negative or within (0, 1), `activation` is unknown, `label_smoothing` is not
            within [0, 1].
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
        activation: str = "softmax",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
        if focal_gamma != 0 and not focal_gamma >= 1:
            raise ValueError(f"focal_gamma must be 0 or at least 1, got {focal_gamma}")
        self.batch_dice = batch_dice
        self.ignore_index = ignore_index
        self.smooth = smooth
        self.dice_weight = dice_weight
        self.ce_weight = ce_weight
        self.focal_gamma = focal_gamma
        self.activation = activation
        self.label_smoothing = label_smoothing
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
            ValueError: shapes do not fit, or (on processors) a label has no class; elsewhere the loss is NaN then.
        """
        dice, cross_entropy = self.parts(logits, labels)
        return self.dice_weight * dice + self.ce_weight * cross_entropy

    def parts(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (Dice loss, cross-entropy or focal loss), unweighted, for logging."""
        ((dice, cross_entropy),) = self.parts_of_levels([logits], [labels])
        return dice, cross_entropy

    def parts_of_levels(
        self, logits: Sequence[torch.Tensor], labels: Sequence[torch.Tensor]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """`parts` of outputs at several resolutions; processes that train together exchange one message for all."""
        levels = [self._sums(output, target) for output, target in zip(logits, labels, strict=True)]
        unequal = self.ignore_index is not None or self.class_weights is not None
        kinds = (0, 1, 2) * self.batch_dice + (3,) * unequal
        places = [(level, kind) for level in levels for kind in kinds]
        totals = sums_over_processes([level[kind] for level, kind in places])
        for (level, kind), total in zip(places, totals, strict=True):
            level[kind] = total
        return [self._ratios(*level) for level in levels]

    def _sums(self, logits: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
        """Intersection, predicted and present `[K]` (batch Dice) or `[B, K]`, and the terms `[2]` of the mean."""
        if labels.ndim == logits.ndim:
            labels = labels[:, 0]
        *dice, terms = dice_cross_entropy_sums(
            logits.float() if logits.dtype == torch.float64 else logits,
            labels.long() if labels.is_floating_point() else labels,
            self.class_weights,
            self.ignore_index,
            self.activation,
            self.focal_gamma,
            self.label_smoothing,
        )
        return [*(values.sum(0) if self.batch_dice else values for values in dice), terms]

    def _ratios(
        self, intersection: torch.Tensor, predicted: torch.Tensor, reference: torch.Tensor, terms: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        dice = (2 * intersection + self.smooth) / (predicted + reference + self.smooth)
        return 1 - dice[..., 1:].mean(), terms[0] / terms[1].clamp_min(1e-8)
