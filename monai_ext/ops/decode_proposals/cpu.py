"""C++ form for processors; float64 goes to the reference."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_float, c_int64, c_void_p

import torch

from monai_ext.ops import cpu_build
from monai_ext.ops.decode_proposals import reference

_LIBRARY = cpu_build.load("decode_proposals")
_LIBRARY.decode.argtypes = [*[c_void_p] * 4, c_int64, c_float, c_float, c_void_p, c_float]
_LIBRARY.decode.restype = None


def decode(
    deltas: torch.Tensor, anchors: torch.Tensor, height: int, width: int, weights: Sequence[float], min_size: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `monai_ext.ops.decode_proposals.decode_proposals`; contiguous inputs of one type."""
    if deltas.dtype != torch.float32:
        return reference.decode(deltas, anchors, height, width, weights, min_size)
    boxes, valid = torch.empty_like(deltas), torch.empty(deltas.shape[0], dtype=torch.bool)
    numbers = (c_float * 4)(*weights)
    _LIBRARY.decode(
        *(deltas.data_ptr(), anchors.data_ptr(), boxes.data_ptr(), valid.data_ptr(), deltas.shape[0]),
        *(height, width, numbers, min_size),
    )
    return boxes, valid
