"""C++ form for processors; float16, which processors hardly use, is computed as float32."""

from __future__ import annotations

from ctypes import c_double, c_float, c_int, c_int64, c_void_p

import torch

from monai_ext.ops import cpu_build
from monai_ext.ops.paste_masks.reference import Window

_LIBRARY = cpu_build.load("paste_masks")
_LIBRARY.paste_masks.argtypes = [c_void_p, c_void_p, *[c_int64] * 5, c_float, c_int, c_void_p]
_LIBRARY.paste_mask.argtypes = [c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_float, c_int, c_void_p]
_LIBRARY.paste_masks.restype = _LIBRARY.paste_mask.restype = None


def paste_masks(
    probabilities: torch.Tensor, boxes: torch.Tensor, height: int, width: int, threshold: float
) -> torch.Tensor:
    """See `monai_ext.ops.paste_masks.paste_masks`."""
    masks, edges = _read(probabilities), boxes.double().contiguous()
    labels = torch.empty((height, width), dtype=torch.int32)
    _LIBRARY.paste_masks(
        masks.data_ptr(),
        edges.data_ptr(),
        *masks.shape,
        height,
        width,
        threshold,
        masks.dtype == torch.bfloat16,
        labels.data_ptr(),
    )
    return labels


def paste_mask(probability: torch.Tensor, box: list[float], window: Window, threshold: float) -> torch.Tensor:
    """See `monai_ext.ops.paste_masks.reference.paste_mask`."""
    mask = _read(probability)
    top, bottom, left, right = window
    painted = torch.empty((bottom - top, right - left), dtype=torch.bool)
    _LIBRARY.paste_mask(
        mask.data_ptr(),
        (c_double * 4)(*box),
        *mask.shape,
        (c_int64 * 4)(*window),
        threshold,
        mask.dtype == torch.bfloat16,
        painted.data_ptr(),
    )
    return painted


def _read(masks: torch.Tensor) -> torch.Tensor:
    return (masks if masks.dtype == torch.bfloat16 else masks.float()).contiguous()
