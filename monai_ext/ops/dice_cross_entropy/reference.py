"""Plain torch: sums of Dice and cross-entropy losses; the gradient is torch's own."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812


def sums(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor | None,
    ignore_index: int | None,
    activation: str,
    focal_gamma: float,
    label_smoothing: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `monai_ext.ops.dice_cross_entropy.dice_cross_entropy_sums`; float64 throughout for float64 logits."""
    kind = torch.float64 if logits.dtype == torch.float64 else torch.float32
    classes = logits.shape[1]
    z = logits.to(kind)[..., None].flatten(2)  # also without spatial axes
    y = labels[..., None].flatten(1).long()
    counts = torch.ones_like(y, dtype=torch.bool) if ignore_index is None else y != ignore_index
    inside = (y >= 0) & (y < classes)
    wrong = counts & ~inside
    if y.device.type == "cpu" and not torch.compiler.is_compiling() and bool(wrong.any()):
        seen = y.masked_fill(~counts, 0)
        raise ValueError(out_of_range(int(seen.min()), int(seen.max()), classes))
    counts, y = counts & inside, y.masked_fill(~inside, 0)
    if ignore_index is not None:
        z = z.masked_fill(~counts[:, None], 0.0)
    weights = torch.ones(classes, dtype=kind, device=z.device) if class_weights is None else class_weights.to(kind)
    terms = _softmax_terms if activation == "softmax" else _sigmoid_terms
    p, total, weight = terms(z, y, counts, weights, focal_gamma, label_smoothing)
    own = [(y == k) & counts for k in range(classes)]  # one class at a time, so that no one-hot labels exist
    pairs = zip(own, p.unbind(1), strict=True)  # whose gradients torch joins once; those of p[:, k] it would add up
    intersection = torch.stack([p_k.masked_fill(~mask, 0.0).sum(1) for mask, p_k in pairs], 1)
    present = torch.stack([mask.sum(1) for mask in own], 1).to(kind)
    predicted = p.sum(2) if ignore_index is None else p.masked_fill(~counts[:, None], 0.0).sum(2)
    both = torch.stack([total, weight])
    return intersection, predicted, present, torch.where(wrong.any(), torch.nan, both) if y.numel() else both


def out_of_range(low: int, high: int, classes: int) -> str:
    """What is said of labels without a class; `low` and `high` are their extremes."""
    return f"labels reach from {low} to {high}, network has {classes} classes"


def _softmax_terms(
    z: torch.Tensor, y: torch.Tensor, counts: torch.Tensor, weights: torch.Tensor, gamma: float, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    log_p = torch.log_softmax(z, 1)
    weight = weights[y] * counts
    hard = _focal(log_p.gather(1, y[:, None])[:, 0], gamma)
    total = torch.where(counts, weight * hard, 0.0).sum() * (1 - smoothing)
    if smoothing:
        soft = _focal(log_p, gamma).mul(weights[:, None]).sum(1)
        total = total + torch.where(counts, soft, 0.0).sum() * (smoothing / z.shape[1])
    return log_p.exp(), total, weight.sum()


def _focal(log_p: torch.Tensor, gamma: float) -> torch.Tensor:
    """-(1 - p)^gamma log p, 1 - p from log p without cancellation."""
    return -log_p if gamma == 0 else -(-torch.expm1(log_p)).pow(gamma) * log_p


def _sigmoid_terms(
    z: torch.Tensor, y: torch.Tensor, counts: torch.Tensor, weights: torch.Tensor, gamma: float, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    classes = torch.arange(z.shape[1], device=z.device)[:, None]
    low = smoothing / 2
    target = torch.where(y[:, None] == classes, 1 - low, low).to(z.dtype)
    p, q = torch.sigmoid(z), torch.sigmoid(-z)
    up, down = -F.logsigmoid(z), -F.logsigmoid(-z)
    if gamma:
        up, down = up * q.pow(gamma), down * p.pow(gamma)
    term = (target * up + (1 - target) * down) * weights[:, None]
    return p, torch.where(counts[:, None], term, 0.0).sum(), counts.sum() * weights.sum()
