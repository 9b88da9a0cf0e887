"""C++ form for processors; float16, which processors hardly use, is computed as float32."""

from __future__ import annotations

from ctypes import c_float, c_int, c_int64, c_void_p
from math import prod
from typing import Any

import torch

from monai_ext.ops import cpu_build
from monai_ext.ops.dice_cross_entropy.reference import out_of_range

_LIBRARY = cpu_build.load("dice_cross_entropy")
_KINDS = {torch.float32: 0, torch.bfloat16: 1}
_LABEL_KINDS = {torch.uint8: 1, torch.int16: 2, torch.int32: 4, torch.int64: 8}
_OPTIONS: list[Any] = [*[c_int64] * 4, *[c_float] * 2, *[c_int] * 5]
_LIBRARY.forward.argtypes = [*[c_void_p] * 8, *_OPTIONS]
_LIBRARY.forward.restype = None
_LIBRARY.backward.argtypes = [*[c_void_p] * 5, c_float, c_void_p, *_OPTIONS]
_LIBRARY.backward.restype = None


def sums(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor | None,
    ignore_index: int | None,
    activation: str,
    focal_gamma: float,
    label_smoothing: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Intersection, predicted, present and terms; logits contiguous or channels last.

    Raises:
        ValueError: a label has no class.
    """
    # converted tensors keep their names until the call is over, or their memory would be gone
    logits = logits if logits.dtype in _KINDS else logits.float()
    labels, weights = _readable(labels), _weights(class_weights, logits.shape[1])
    intersection = torch.empty(logits.shape[:2], dtype=torch.float32)
    predicted, present = torch.empty_like(intersection), torch.empty_like(intersection)
    terms = torch.empty(2, dtype=torch.float32)
    extremes = (c_int64 * 2)()
    _LIBRARY.forward(
        logits.data_ptr(),
        labels.data_ptr(),
        weights.data_ptr(),
        intersection.data_ptr(),
        predicted.data_ptr(),
        present.data_ptr(),
        terms.data_ptr(),
        extremes,
        *_options(logits, labels, ignore_index, activation, focal_gamma, label_smoothing),
    )
    low, high = extremes
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(out_of_range(low, high, logits.shape[1]))
    return intersection, predicted, present, terms


def backward(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor | None,
    intersection: torch.Tensor,
    predicted: torch.Tensor,
    terms: torch.Tensor,
    ignore_index: int | None,
    activation: str,
    focal_gamma: float,
    label_smoothing: float,
) -> torch.Tensor:
    """Gradient of the logits, in their type and layout, from the float32 gradients of the sums."""
    values = logits if logits.dtype in _KINDS else logits.float()
    labels, weights = _readable(labels), _weights(class_weights, logits.shape[1])
    result = torch.empty_like(values)
    _LIBRARY.backward(
        values.data_ptr(),
        labels.data_ptr(),
        weights.data_ptr(),
        intersection.data_ptr(),
        predicted.data_ptr(),
        float(terms[0]),
        result.data_ptr(),
        *_options(values, labels, ignore_index, activation, focal_gamma, label_smoothing),
    )
    return result.to(logits.dtype)


def _readable(labels: torch.Tensor) -> torch.Tensor:
    return (labels if labels.dtype in _LABEL_KINDS else labels.long()).contiguous()


def _weights(class_weights: torch.Tensor | None, classes: int) -> torch.Tensor:
    return torch.ones(classes) if class_weights is None else class_weights.float().contiguous()


def _options(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ignore_index: int | None,
    activation: str,
    focal_gamma: float,
    label_smoothing: float,
) -> tuple[Any, ...]:
    limits = torch.iinfo(labels.dtype)
    ignore = ignore_index is not None and limits.min <= ignore_index <= limits.max  # else no label has it
    return (
        *(logits.shape[0], logits.shape[1], prod(logits.shape[2:])),
        ignore_index if ignore else 0,
        focal_gamma,
        label_smoothing,
        _KINDS[logits.dtype],
        _LABEL_KINDS[labels.dtype],
        ignore,
        activation == "sigmoid",
        not logits.is_contiguous(),
    )
