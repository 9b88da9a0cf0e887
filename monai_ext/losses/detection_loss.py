"""The five losses of Mask R-CNN, and their sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from monai_ext.errors import InputError

LOSSES = ("rpn_class", "rpn_box", "roi_class", "roi_box", "mask")


def rpn_losses(
    logits: torch.Tensor,
    deltas: torch.Tensor,
    labels: torch.Tensor,
    wanted: torch.Tensor,
    normaliser: float,
    beta: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of the anchors that were drawn (Ren et al. 2015), in float32 (float64 for float64).

    Args:
        logits: `[S]`.
        deltas: `[S, 4]`.
        labels: `[S]`, 1 for an object, 0 for none, -1 for what does not count.
        wanted: `[S, 4]`, what the deltas of objects should be; finite everywhere.
        normaliser: of both: anchors to be drawn from an image, times images, also where there were fewer.
        beta: of the smooth L1 loss; 0 is L1.

    Returns:
        sums, divided by the normaliser, of binary cross-entropy and of smooth L1; both 0-dimensional.
    """
    logits, is_object = _wide(logits), labels == 1
    terms = F.binary_cross_entropy_with_logits(logits, is_object.to(logits.dtype), reduction="none")
    found = torch.where(labels >= 0, terms, 0.0).sum()
    return found / normaliser, _smooth_l1(deltas, wanted, is_object, beta) / normaliser


def box_losses(
    logits: torch.Tensor,
    deltas: torch.Tensor,
    labels: torch.Tensor,
    wanted: torch.Tensor,
    beta: float = 0.0,
    count: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of the regions that were drawn (Girshick 2015), in float32 (float64 for float64).

    Args:
        logits: `[R, K + 1]`, background first.
        deltas: `[R, K, 4]`; those of the object's class count.
        labels: `[R]` int64, 1 to K, 0 for background, -1 for what does not count.
        wanted: `[R, 4]`, what the deltas of objects should be; finite everywhere.
        beta: of the smooth L1 loss; 0 is L1.
        count: 0-dimensional, above 0, number of regions to divide by; None: of those here that count.

    Returns:
        mean cross-entropy, and the sum of smooth L1 over the objects divided by the number of all regions that count:
        each object has the same influence, however many there are. 0 where nothing counts.
    """
    logits = _wide(logits)
    if count is None:
        count = (labels >= 0).sum().clamp_min(1)
    own = (labels - 1).clamp_min(0)[:, None, None].expand(-1, 1, 4)
    found = F.cross_entropy(logits, labels, reduction="sum", ignore_index=-1)
    return found / count, _smooth_l1(deltas.gather(1, own)[:, 0], wanted, labels > 0, beta) / count


def mask_loss(logits: torch.Tensor, wanted: torch.Tensor, count: torch.Tensor | None = None) -> torch.Tensor:
    """Mean binary cross-entropy of all pixels of all masks (He et al. 2017), float32; 0 where there are none.

    Args:
        logits: `[P, M, M]`, of the class of each object.
        wanted: `[P, M, M]`, 0 or 1.
        count: 0-dimensional, above 0, number of masks to divide the sum by; None: P.
    """
    logits = _wide(logits)
    if not logits.numel():
        return logits.sum()
    wanted = wanted.to(logits.dtype)
    if count is None:
        return F.binary_cross_entropy_with_logits(logits, wanted)
    pixels = logits.shape[1] * logits.shape[2]
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / (count * pixels)


class DetectionLoss(nn.Module):
    """Weighted sum of the losses that `MaskRCNN` returns in training.

    Args:
        rpn_class, rpn_box, roi_class, roi_box, mask: weight of each.

    Attributes:
        last_parts: the losses of the last call without their weights, detached, for logs.

    Raises:
        InputError: a weight is negative or not finite.
    """

    def __init__(
        self,
        rpn_class: float = 1.0,
        rpn_box: float = 1.0,
        roi_class: float = 1.0,
        roi_box: float = 1.0,
        mask: float = 1.0,
    ) -> None:
        super().__init__()
        self.weights = dict(zip(LOSSES, map(float, (rpn_class, rpn_box, roi_class, roi_box, mask)), strict=True))
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise InputError(f"weight of the loss {name} is {weight}: must be from 0 on. Cure: 1")
        self.last_parts: dict[str, torch.Tensor] = {}

    def forward(self, losses: Mapping[str, torch.Tensor], targets: object = None) -> torch.Tensor:
        """The sum.

        Args:
            losses: 0-dimensional tensors by name, one for each of `LOSSES`.
            targets: not used: the network has compared itself with them.

        Raises:
            ValueError: a loss is missing or unknown.
        """
        if set(losses) != set(LOSSES):
            raise ValueError(f"losses must be {', '.join(LOSSES)}, got {', '.join(losses)}")
        self.last_parts = {name: losses[name].detach() for name in LOSSES}
        return torch.stack([self.weights[name] * losses[name] for name in LOSSES]).sum()


def weighted_loss(weights: Sequence[float]) -> DetectionLoss:
    """The loss with a weight for each of `LOSSES`, in their order.

    Raises:
        InputError: another number of weights, or one is negative or not finite.
    """
    if len(weights) != len(LOSSES):
        raise InputError(
            f"--loss_weights {list(weights)}: must be {len(LOSSES)} numbers, for {', '.join(LOSSES)}. "
            f"Cure: {[1] * len(LOSSES)}"
        )
    return DetectionLoss(*weights)


def _smooth_l1(found: torch.Tensor, wanted: torch.Tensor, counts: torch.Tensor, beta: float) -> torch.Tensor:
    """Sum over the rows that count."""
    found = _wide(found)
    terms = F.smooth_l1_loss(found, wanted.to(found.dtype), reduction="none", beta=beta)
    return torch.where(counts[:, None], terms, 0.0).sum()


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
