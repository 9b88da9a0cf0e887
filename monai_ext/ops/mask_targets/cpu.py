"""C++ form for processors."""

from __future__ import annotations

from ctypes import c_int64, c_void_p

import torch

from monai_ext.ops import cpu_build

_LIBRARY = cpu_build.load("mask_targets")
_LIBRARY.mask_targets.argtypes = [c_void_p, *[c_int64] * 3, c_void_p, c_void_p, *[c_int64] * 3, c_void_p]
_LIBRARY.mask_targets.restype = None


def mask_targets(
    label_maps: torch.Tensor, rois: torch.Tensor, ids: torch.Tensor, size: int, sampling: int
) -> torch.Tensor:
    """See `monai_ext.ops.mask_targets.mask_targets`; maps and ids int32, rois float64."""
    rois, ids = rois.contiguous(), ids.contiguous()
    targets = torch.empty((rois.shape[0], size, size), dtype=torch.float32)
    _LIBRARY.mask_targets(
        label_maps.data_ptr(),
        *label_maps.shape,
        rois.data_ptr(),
        ids.data_ptr(),
        rois.shape[0],
        size,
        sampling,
        targets.data_ptr(),
    )
    return targets
