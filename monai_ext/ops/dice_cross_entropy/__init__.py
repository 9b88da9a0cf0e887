"""The sums of which Dice, cross-entropy and focal losses are made, in one pass over the logits, and their gradient."""

from __future__ import annotations

from typing import Any, Optional

import torch

from monai_ext.ops import forms
from monai_ext.ops.dice_cross_entropy import reference

NAME = "dice_cross_entropy"
ACTIVATIONS = ("softmax", "sigmoid")

Sums = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def dice_cross_entropy_sums(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor | None = None,
    ignore_index: int | None = None,
    activation: str = "softmax",
    focal_gamma: float = 0.0,
    label_smoothing: float = 0.0,
) -> Sums:
    """Sums over voxels, from which a loss takes its ratios and means.

    With y the label, q the target (1 for class y, else 0) smoothed by e, w the class weights, g `focal_gamma`, over
    the voxels v that are not ignored::

        intersection[b, k] = sum_v p_k [y = k]    predicted[b, k] = sum_v p_k    present[b, k] = sum_v [y = k]

        softmax, p over the classes, q_k = (1 - e) [y = k] + e / K:
            terms = (- sum_v sum_k w_k q_k (1 - p_k)^g log p_k, sum_v w_y)
        sigmoid, every class for itself, q_k = (1 - e) [y = k] + e / 2:
            terms = (- sum_v sum_k w_k (q_k (1 - p_k)^g log p_k + (1 - q_k) p_k^g log(1 - p_k)), sum_v sum_k w_k)

    so that `terms[0] / terms[1]` is the mean of `torch.nn.CrossEntropyLoss` (with its class weights, label smoothing
    and ignored index) or of `torch.nn.BCEWithLogitsLoss`. Drozdzal et al. 2016 (soft Dice), Szegedy et al. 2016 (label
    smoothing), Lin et al. 2017 (focal loss).

    Nothing but logits and labels is kept for the gradient, which only the logits get; it is not differentiable again.

    Args:
        logits: `[B, K, *S]` float32, bfloat16 or float16, in any layout (contiguous and channels last are read, and
            their gradient is written, as they are; others are copied); float64 is computed in plain torch.
        labels: `[B, *S]`, any integer dtype, values 0 .. K-1 or `ignore_index`.
        class_weights: `[K]`, w above; None is 1 for every class.
        ignore_index: label of voxels that count nowhere; None if every voxel counts.
        activation: `softmax` or `sigmoid`.
        focal_gamma: g above; 0 is plain cross-entropy.
        label_smoothing: e above, in [0, 1].

    Returns:
        intersection, predicted, present: `[B, K]`; terms: `[2]`; all float32 (float64 for float64), summed in float64.

    Raises:
        ValueError: shapes or types do not fit, an option is out of its range, or (on processors) a label has no class.
            Elsewhere reading the labels would wait for the device, so the terms are NaN then.
    """
    _check(logits, labels, class_weights, activation, focal_gamma, label_smoothing)
    if labels.dtype == torch.bool:
        labels = labels.to(torch.uint8)
    function = _sums if forms.is_fused(NAME, logits.device.type) and logits.dtype != torch.float64 else reference.sums
    return function(logits, labels, class_weights, ignore_index, activation, focal_gamma, label_smoothing)


def _check(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor | None,
    activation: str,
    focal_gamma: float,
    label_smoothing: float,
) -> None:
    if logits.ndim < 2 or labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(f"labels {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}")
    if not logits.is_floating_point() or labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"needs floating logits and integer labels, got {logits.dtype} and {labels.dtype}")
    if class_weights is not None and class_weights.shape != logits.shape[1:2]:
        raise ValueError(f"class_weights {tuple(class_weights.shape)} must be [{logits.shape[1]}], one a class")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if focal_gamma != 0 and not focal_gamma >= 1:
        raise ValueError(f"focal_gamma must be 0 or at least 1, got {focal_gamma}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")


@torch.library.custom_op("monai_ext::dice_cross_entropy_sums", mutates_args=())
def _sums(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weights: Optional[torch.Tensor],  # noqa: UP045
    ignore_index: Optional[int],  # noqa: UP045
    activation: str,
    focal_gamma: float,
    label_smoothing: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    kernels = forms.implementation(NAME, logits.device)
    return kernels.sums(dense(logits), labels, class_weights, ignore_index, activation, focal_gamma, label_smoothing)


@_sums.register_fake
def _(logits: torch.Tensor, *_: Any) -> Sums:
    size = logits.shape[:2]
    a, b, c = (logits.new_empty(size, dtype=torch.float32) for _ in range(3))
    return a, b, c, logits.new_empty(2, dtype=torch.float32)


@torch.library.custom_op("monai_ext::dice_cross_entropy_sums_backward", mutates_args=())
def _backward(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weights: Optional[torch.Tensor],  # noqa: UP045
    intersection: torch.Tensor,
    predicted: torch.Tensor,
    terms: torch.Tensor,
    ignore_index: Optional[int],  # noqa: UP045
    activation: str,
    focal_gamma: float,
    label_smoothing: float,
) -> torch.Tensor:
    """Gradient of the logits from those of the sums; the counts of labels have none."""
    kernels = forms.implementation(NAME, logits.device)
    gradients = [g.float().contiguous() for g in (intersection, predicted, terms)]
    options = ignore_index, activation, focal_gamma, label_smoothing
    return kernels.backward(dense(logits), labels, class_weights, *gradients, *options)


@_backward.register_fake
def _(logits: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(dense(logits))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Sums) -> None:
    logits, labels, class_weights, *ctx.options = inputs
    ctx.save_for_backward(logits, labels, class_weights)
    ctx.mark_non_differentiable(output[2])


def _gradient(ctx: Any, intersection: torch.Tensor, predicted: torch.Tensor, _: Any, terms: torch.Tensor) -> Any:
    logits, labels, class_weights = ctx.saved_tensors
    dlogits = _backward(logits, labels, class_weights, intersection, predicted, terms, *ctx.options)
    return dlogits, None, None, None, None, None, None


_sums.register_autograd(_gradient, setup_context=_keep)


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether the classes of a voxel are neighbours in memory, in a layout that is not contiguous as well."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return not x.is_contiguous() and x.ndim in formats and x.is_contiguous(memory_format=formats[x.ndim])


def dense(x: torch.Tensor) -> torch.Tensor:
    """`x` itself if contiguous or channels last, else a contiguous copy."""
    return x if is_channels_last(x) else x.contiguous()
