"""Soft Dice with squared denominators, per sample and class."""

from __future__ import annotations

import torch


def soft_dice(probabilities: torch.Tensor, labels: torch.Tensor, epsilon: float = 1e-6) -> torch.Tensor:
    """Dice of class probabilities p and labels t, per sample and class over all pixels.

    `(2 sum p t + e) / (sum p^2 + sum t^2 + e)`, t being 1 where the label is the class and 0 elsewhere (Milletari et
    al. 2016), differentiable in p. NVIDIA's UNet Medical (2021) trains with 1 - its mean over samples and both classes,
    membrane and background, as Dice loss and reports the same quantity as its score.

    Only sums are needed, so that labels become one boolean mask at a time instead of a one-hot copy. A pixel whose
    label is no class (an ignored one, say -1) counts as 0 in every t; its p counts unless it is 0 as well.

    Args:
        probabilities: `[B, K, *S]` floating point; float16 and bfloat16 are computed in float32, float64 stays.
        labels: `[B, 1, *S]` integers or bool.
        epsilon: e above; makes an absent class that gets no probability score 1.

    Returns:
        `[B, K]`, float32 or float64.

    Raises:
        ValueError: shapes do not fit, labels are not integers, probabilities are.
    """
    _check(probabilities, labels)
    probabilities = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
    scores = []
    for k, of_class in enumerate(probabilities.unbind(1)):
        mask = (labels[:, 0] == k).flatten(1)
        of_class = of_class.flatten(1)
        shared = (of_class * mask).sum(1)
        denominator = of_class.square().sum(1) + mask.sum(1)
        scores.append((2 * shared + epsilon) / (denominator + epsilon))
    return torch.stack(scores, dim=1)


def _check(probabilities: torch.Tensor, labels: torch.Tensor) -> None:
    if not probabilities.is_floating_point():
        raise ValueError(f"probabilities must be floating point, got {probabilities.dtype}")
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if probabilities.ndim < 3 or labels.shape != (probabilities.shape[0], 1, *probabilities.shape[2:]):
        raise ValueError(
            f"probabilities [B, K, *S] and labels [B, 1, *S] do not fit: {tuple(probabilities.shape)} and "
            f"{tuple(labels.shape)}"
        )
