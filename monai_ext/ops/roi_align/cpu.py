"""C++ form for processors; float16, which processors hardly use, is computed as float32."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_double, c_int, c_int64, c_void_p
from typing import Any

import torch

from monai_ext.ops import cpu_build

_LIBRARY = cpu_build.load("roi_align")
_KINDS = {torch.float32: "float", torch.bfloat16: "bfloat16"}
for _name in ("forward", "backward"):
    for _kind in _KINDS.values():
        getattr(_LIBRARY, f"{_name}_{_kind}").argtypes = [*[c_void_p] * 6, *[c_int64] * 7, c_int]
        getattr(_LIBRARY, f"{_name}_{_kind}").restype = None


def forward(
    features: Sequence[torch.Tensor],
    rois: torch.Tensor,
    levels: torch.Tensor,
    rows: int,
    columns: int,
    scales: Sequence[float],
    sampling: int,
    aligned: bool,
) -> torch.Tensor:
    """See `monai_ext.ops.roi_align.roi_align`: `[R, C, P, Q]`, channels last in memory."""
    first = features[0]
    if first.dtype not in _KINDS:
        wide = [value.float() for value in features]
        return forward(wide, rois, levels, rows, columns, scales, sampling, aligned).to(first.dtype)
    maps = [value.permute(0, 2, 3, 1).contiguous() for value in features]
    out = first.new_empty((rois.shape[0], rows, columns, first.shape[1]))
    sizes = [(value.shape[1], value.shape[2]) for value in maps]
    _call("forward", maps, out, rois, levels, first.shape[0], sizes, scales, sampling, aligned)
    return out.permute(0, 3, 1, 2)


def backward(
    dy: torch.Tensor,
    rois: torch.Tensor,
    levels: torch.Tensor,
    batch: int,
    sizes: Sequence[tuple[int, int]],
    scales: Sequence[float],
    sampling: int,
    aligned: bool,
) -> list[torch.Tensor]:
    """Gradients `[N, C, H, W]` of the maps, channels last in memory."""
    if dy.dtype not in _KINDS:
        found = backward(dy.float(), rois, levels, batch, sizes, scales, sampling, aligned)
        return [value.to(dy.dtype) for value in found]
    out = dy.permute(0, 2, 3, 1).contiguous()
    maps = [dy.new_empty((batch, *size, dy.shape[1])) for size in sizes]
    _call("backward", maps, out, rois, levels, batch, sizes, scales, sampling, aligned)
    return [value.permute(0, 3, 1, 2) for value in maps]


def _call(
    name: str,
    maps: list[torch.Tensor],
    out: torch.Tensor,
    rois: torch.Tensor,
    levels: torch.Tensor,
    batch: int,
    sizes: Sequence[tuple[int, int]],
    scales: Sequence[float],
    sampling: int,
    aligned: bool,
) -> None:
    """`out` is `[R, P, Q, C]`, maps are `[N, H, W, C]`."""
    count, rows, columns, channels = out.shape
    rois, levels = rois.double().contiguous(), levels.contiguous()
    flat: list[int] = [side for size in sizes for side in size]
    arrays: list[Any] = [(c_void_p * len(maps))(*(value.data_ptr() for value in maps)), out.data_ptr()]
    arrays += [rois.data_ptr(), levels.data_ptr(), (c_int64 * len(flat))(*flat), (c_double * len(maps))(*scales)]
    numbers = (len(maps), batch, channels, count, rows, columns, sampling, aligned)
    getattr(_LIBRARY, f"{name}_{_KINDS[out.dtype]}")(*arrays, *numbers)
