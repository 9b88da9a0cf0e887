"""C++ form for processors; float64 goes to the reference."""

from __future__ import annotations

from ctypes import c_float, c_int64, c_void_p

import torch

from monai_ext.ops import cpu_build
from monai_ext.ops.nms import reference

_LIBRARY = cpu_build.load("nms")
_LIBRARY.suppress.argtypes = [c_void_p, c_void_p, c_void_p, c_int64, c_float]
_LIBRARY.suppress.restype = None


def suppress(boxes: torch.Tensor, groups: torch.Tensor | None, threshold: float) -> torch.Tensor:
    """See `monai_ext.ops.nms.reference.suppress`."""
    if boxes.dtype != torch.float32:
        return reference.suppress(boxes, groups, threshold)
    boxes = boxes.contiguous()
    groups = None if groups is None else groups.contiguous()
    kept = torch.empty(boxes.shape[0], dtype=torch.bool)
    address = 0 if groups is None else groups.data_ptr()
    _LIBRARY.suppress(boxes.data_ptr(), address, kept.data_ptr(), boxes.shape[0], threshold)
    return kept
