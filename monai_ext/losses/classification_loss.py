"""Cross-entropy or focal loss of image classes, against labels, soft targets of mixed images, or several labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from monai_ext.engines import process_group
from monai_ext.errors import InputError
from monai_ext.losses.sums_over_processes import sums_over_processes


class ClassificationLoss(nn.Module):
    """Loss of logits `[B, K]`, computed in float32 (float64 for float64 logits) whatever their type.

    One label per image, p = softmax(logits), target distribution q (one-hot for a label), class weights w::

        loss = - sum_bk w_k q_bk (1 - p_bk)^g log p_bk / sum_bk w_k q_bk

    With g = 0 that is `torch.nn.CrossEntropyLoss(weight=w)` of labels; of soft targets it differs from PyTorch's in the
    divisor, which there is B whatever the weights, so that here a one-hot target and its label give the same loss.
    Where several processes train together, the divisor of weighted classes is that of all their batches, so that the
    mean of their losses, and with it the gradient, is that of one batch.

    Several labels per image, p = sigmoid(logits), targets q within [0, 1]::

        loss = - mean_bk [ w_k q_bk (1 - p_bk)^g log p_bk + (1 - q_bk) p_bk^g log(1 - p_bk) ]

    With g = 0 that is `torch.nn.BCEWithLogitsLoss(pos_weight=w)`. The factors of g are the focal loss (Lin et al.
    2017), which lets images that are already right count little.

    Args:
        multi_label: an image may have several classes or none.
        class_weights: one number per class, or None for equal ones.
        focal_gamma: g above; 0 is plain cross-entropy. Between 0 and 1 the gradient has a pole at p = 1.
        num_classes: checked against `class_weights` if given.

    Raises:
        InputError: `class_weights` are negative, all 0, not finite, or not as many as there are classes; `focal_gamma`
            is negative or within (0, 1).
    """

    class_weights: torch.Tensor | None

    def __init__(
        self,
        multi_label: bool = False,
        class_weights: Sequence[float] | torch.Tensor | None = None,
        focal_gamma: float = 0.0,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if focal_gamma != 0 and not focal_gamma >= 1:
            raise InputError(f"--focal_gamma {focal_gamma}: must be 0 or at least 1. Cure: 2")
        self.multi_label = multi_label
        self.focal_gamma = float(focal_gamma)
        weights = None if class_weights is None else _checked_weights(class_weights, num_classes)
        # not in the state: weights belong to the keys of a run, not to its checkpoint
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Scalar loss.

        Args:
            logits: `[B, K]`, any floating type.
            targets: labels `[B]` (integer), soft targets `[B, K]` (rows sum to 1), or with `multi_label` `[B, K]`.

        Raises:
            ValueError: the shapes do not fit each other.
        """
        if logits.ndim != 2:
            raise ValueError(f"logits must be [B, K], got {tuple(logits.shape)}")
        logits = logits if logits.dtype == torch.float64 else logits.float()
        is_label = targets.ndim == 1 and not targets.is_floating_point()
        if targets.shape != logits.shape and (self.multi_label or not is_label or len(targets) != len(logits)):
            wanted = "[B, K]" if self.multi_label else "integer [B] or [B, K]"
            shapes = f"{targets.dtype} {tuple(targets.shape)} for logits {tuple(logits.shape)}"
            raise ValueError(f"targets must be {wanted}, got {shapes}")
        weights = self._weights_for(logits)
        if self.multi_label:
            return self._several(logits, targets.to(logits.dtype), weights)
        if is_label:
            if self.focal_gamma == 0 and weights is None:
                return F.cross_entropy(logits, targets.long())
            targets = F.one_hot(targets.long(), logits.shape[1])
        return self._one(logits, targets.to(logits.dtype), weights)

    def _weights_for(self, logits: torch.Tensor) -> torch.Tensor | None:
        if self.class_weights is None:
            return None
        if len(self.class_weights) != logits.shape[1]:
            raise ValueError(f"{len(self.class_weights)} class weights for {logits.shape[1]} classes")
        return self.class_weights.to(logits)

    def _one(self, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        log_p = logits.log_softmax(1)
        weighted = targets if weights is None else targets * weights
        terms = weighted * log_p
        if self.focal_gamma > 0:
            terms = terms * (-torch.expm1(log_p)).clamp_min(0) ** self.focal_gamma
        divisor = weighted.sum()
        if weights is not None:
            # of the batch of all processes; without weights their shares are equal
            divisor = sums_over_processes([divisor])[0] / process_group.world_size()
        # a batch whose labels all weigh nothing gives 0, not NaN
        return -terms.sum() / divisor.clamp_min(torch.finfo(log_p.dtype).tiny)

    def _several(self, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        if self.focal_gamma == 0:
            return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
        p = logits.sigmoid()
        present = targets * F.logsigmoid(logits) * (1 - p) ** self.focal_gamma
        absent = (1 - targets) * F.logsigmoid(-logits) * p**self.focal_gamma
        return -((present if weights is None else present * weights) + absent).mean()


def _checked_weights(class_weights: Sequence[float] | torch.Tensor, num_classes: int | None) -> torch.Tensor:
    given = class_weights.tolist() if isinstance(class_weights, torch.Tensor) else list(class_weights)
    try:
        weights = torch.tensor([float(weight) for weight in given], dtype=torch.float32)
    except (TypeError, ValueError):
        weights = torch.full((len(given),), torch.nan)
    valid = bool(((weights >= 0) & weights.isfinite()).all()) and bool(weights.any())
    if not valid or (num_classes is not None and len(given) != num_classes):
        count = "finite numbers" if num_classes is None else f"{num_classes} finite numbers"
        raise InputError(
            f"--class_weights {given}: needs {count} from 0 on, not all 0. Cure: one weight per class, or balanced"
        )
    return weights
