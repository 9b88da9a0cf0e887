"""Soft targets: label smoothing, mixup and cutmix of a collated batch, on its device.

Szegedy et al., "Rethinking the Inception architecture" (2016); Zhang et al., "mixup: beyond empirical risk
minimization" (2018); Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable
features" (2019).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812

from monai_ext.errors import Problems


class BatchMixing:
    """Mix the images of a batch with one another, and their labels alike.

    Every image gets `lambda` of itself and `1 - lambda` of a partner, `lambda ~ Beta(alpha, alpha)`. Where both alphas
    are above 0, each batch is mixed one way or the other by the toss of a coin. Numbers are drawn on the processor from
    PyTorch's own generator, so that the same seed gives the same mixture on every device.

    Args:
        num_classes: K.
        mixup_alpha: 0 for no mixup; published recipes 0.2.
        cutmix_alpha: 0 for no cutmix; published 1.0.
        label_smoothing: share eta of the target spread over all classes, `(1 - eta) y + eta / K`; with multi_label each
            label for itself, `(1 - eta) y + eta / 2`.
        multi_label: labels are `[B, K]` of 0 and 1.
        per_sample: a lambda (and box) for every image, the partner is the image at the mirrored place in the batch (the
            TensorFlow recipe); else one lambda for the batch and a random permutation (the PyTorch recipe).

    Raises:
        InputError: an argument is out of bounds.
    """

    def __init__(
        self,
        num_classes: int,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        label_smoothing: float = 0.0,
        multi_label: bool = False,
        per_sample: bool = False,
    ) -> None:
        problems = Problems("BatchMixing")
        for name, value in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
            if value < 0:
                problems.add(f"{name} {value}", "must be at least 0", "0.2, or 0 for none")
        if not 0 <= label_smoothing < 1:
            problems.add(f"label_smoothing {label_smoothing}", "must be in [0, 1)", "0.1, or 0 for none")
        if num_classes < 1:
            problems.add(f"num_classes {num_classes}", "must be at least 1", "the number of classes")
        problems.raise_if_any()
        self.num_classes = num_classes
        self.mixup_alpha = float(mixup_alpha)
        self.cutmix_alpha = float(cutmix_alpha)
        self.label_smoothing = float(label_smoothing)
        self.multi_label = multi_label
        self.per_sample = per_sample

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix.

        Args:
            images: `[B, C, *spatial]` floating point.
            labels: `[B]` int64, or `[B, K]` for multi-label.

        Returns:
            Images (a new tensor where anything is mixed) and targets `[B, K]` float32.
        """
        targets = self.targets(labels)
        if not (self.mixup_alpha or self.cutmix_alpha):
            return images, targets
        count = len(images)
        cut = self.cutmix_alpha > 0 and (self.mixup_alpha == 0 or bool(torch.rand(()) < 0.5))
        alpha = torch.tensor(self.cutmix_alpha if cut else self.mixup_alpha, dtype=torch.float64)
        kept = torch.distributions.Beta(alpha, alpha).sample((count if self.per_sample else 1,))
        partner = torch.arange(count).flip(0) if self.per_sample else torch.randperm(count)
        partner = partner.to(images.device)
        if cut:
            images, kept = _cut_in(images, images[partner], kept)
        else:
            share = kept.to(images).view(-1, *[1] * (images.ndim - 1))
            images = torch.lerp(images[partner], images, share)
        return images, torch.lerp(targets[partner], targets, kept.to(targets)[:, None])

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Smoothed targets `[B, K]` float32 of labels that are not mixed."""
        if self.multi_label:
            return labels.float() * (1 - self.label_smoothing) + self.label_smoothing / 2
        hard = F.one_hot(labels.long(), self.num_classes).float()
        return hard * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes


def _cut_in(images: torch.Tensor, others: torch.Tensor, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Put a box of `others` into `images`; returns the images and the share of each that is its own."""
    shape = images.shape[2:]
    edge = (1 - kept) ** (1 / len(shape))
    inside = torch.ones((len(kept), 1, *shape), dtype=torch.bool, device=images.device)
    area = torch.ones_like(kept)
    for axis, length in enumerate(shape):
        first, end = _ranges(edge, length)
        place = torch.arange(length, device=images.device)
        first_, end_ = (values.to(images.device)[:, None] for values in (first, end))
        row = (place >= first_) & (place < end_)
        inside &= row.view(len(kept), 1, *_along(axis, length, len(shape)))
        area *= (end - first) / length
    return torch.where(inside, others, images), 1 - area


def _ranges(edge: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of boxes along one axis: their centres are uniform, what reaches beyond the border is lost."""
    centre = torch.randint(length, edge.shape)
    half = edge * length / 2
    return (centre - half).round().clamp(0, length).long(), (centre + half).round().clamp(0, length).long()


def _along(axis: int, length: int, axes: int) -> Sequence[int]:
    return [length if other == axis else 1 for other in range(axes)]
