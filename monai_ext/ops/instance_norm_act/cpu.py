"""C++ form for processors; float16, which processors hardly use, is computed as float32."""

from __future__ import annotations

from ctypes import c_double, c_float, c_int, c_int64, c_void_p
from math import prod

import torch

from monai_ext.ops import cpu_build

_LIBRARY = cpu_build.load("instance_norm_act")
_KINDS = {torch.float32: "float", torch.bfloat16: "bfloat16"}
_SIZES = [c_int64] * 4
for _kind in _KINDS.values():
    getattr(_LIBRARY, f"forward_{_kind}").argtypes = [*[c_void_p] * 7, *_SIZES, c_double, c_float, c_int]
    getattr(_LIBRARY, f"forward_{_kind}").restype = None
    getattr(_LIBRARY, f"backward_{_kind}").argtypes = [*[c_void_p] * 10, *_SIZES, c_float, c_int, c_int]
    getattr(_LIBRARY, f"backward_{_kind}").restype = None


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    residual: torch.Tensor | None,
    groups: int,
    eps: float,
    negative_slope: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output, mean and reciprocal standard deviation; x contiguous or channels last, the residual laid out alike."""
    if x.dtype not in _KINDS:
        wide = None if residual is None else residual.float()
        y, mean, rstd = forward(x.float(), weight, bias, wide, groups, eps, negative_slope)
        return y.to(x.dtype), mean, rstd
    # converted tensors keep their names until the call is over, or their memory would be gone
    weight, bias = weight.float().contiguous(), bias.float().contiguous()
    residual = None if residual is None else residual.to(x.dtype)
    y = torch.empty_like(x)
    mean = torch.empty((x.shape[0], groups), dtype=torch.float32)
    rstd = torch.empty_like(mean)
    getattr(_LIBRARY, f"forward_{_KINDS[x.dtype]}")(
        x.data_ptr(),
        weight.data_ptr(),
        bias.data_ptr(),
        None if residual is None else residual.data_ptr(),
        y.data_ptr(),
        mean.data_ptr(),
        rstd.data_ptr(),
        *_sizes(x),
        groups,
        eps,
        negative_slope,
        not x.is_contiguous(),
    )
    return y, mean, rstd


def backward(
    dy: torch.Tensor,
    kept: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    residual: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    negative_slope: float,
    keep_output: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of x, weight, bias and residual (empty without one)."""
    if kept.dtype not in _KINDS:
        wide = None if residual is None else residual.float()
        dx, dweight, dbias, added = backward(
            dy.float(), kept.float(), weight, bias, wide, mean, rstd, negative_slope, keep_output
        )
        return dx.to(kept.dtype), dweight, dbias, added.to(kept.dtype)
    weights, biases = weight.float().contiguous(), bias.float().contiguous()
    dx = torch.empty_like(kept)
    added = kept.new_empty(0) if residual is None else torch.empty_like(kept)
    sums = torch.empty((*kept.shape[:2], 2), dtype=torch.float32)
    residual = None if residual is None else residual.to(kept.dtype)
    getattr(_LIBRARY, f"backward_{_KINDS[kept.dtype]}")(
        dy.data_ptr(),
        kept.data_ptr(),
        weights.data_ptr(),
        biases.data_ptr(),
        None if residual is None else residual.data_ptr(),
        mean.data_ptr(),
        rstd.data_ptr(),
        dx.data_ptr(),
        added.data_ptr(),
        sums.data_ptr(),
        *_sizes(kept),
        mean.shape[1],
        negative_slope,
        keep_output,
        not kept.is_contiguous(),
    )
    total = sums.sum(0)
    return dx, total[:, 1].to(weight.dtype, copy=True), total[:, 0].to(bias.dtype, copy=True), added


def _sizes(x: torch.Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], prod(x.shape[2:])
