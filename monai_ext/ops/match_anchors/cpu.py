"""C++ form for processors."""

from __future__ import annotations

from ctypes import c_float, c_int, c_int64, c_void_p

import torch

from monai_ext.ops import cpu_build

_LIBRARY = cpu_build.load("match_anchors")
_LIBRARY.match.argtypes = [c_void_p, c_int64, c_void_p, c_int64, c_float, c_float, c_int, c_void_p, c_void_p]
_LIBRARY.match.restype = None


def match(
    gt: torch.Tensor, anchors: torch.Tensor, high: float, low: float, rescue: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `monai_ext.ops.match_anchors.match_anchors`; contiguous float32 boxes, at least one of each."""
    matched = torch.empty(anchors.shape[0], dtype=torch.int64)
    states = torch.empty(anchors.shape[0], dtype=torch.int8)
    _LIBRARY.match(
        *(gt.data_ptr(), gt.shape[0], anchors.data_ptr(), anchors.shape[0]),
        *(high, low, rescue, matched.data_ptr(), states.data_ptr()),
    )
    return matched, states
