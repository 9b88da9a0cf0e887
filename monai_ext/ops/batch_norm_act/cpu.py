"""C++ form for processors; float16, which processors hardly use, is computed as float32."""

from __future__ import annotations

from ctypes import c_double, c_int, c_int64, c_void_p
from math import prod

import torch

from monai_ext.ops import cpu_build

_LIBRARY = cpu_build.load("batch_norm_act")
_KINDS = {torch.float32: "float", torch.bfloat16: "bfloat16"}
_REST = [c_int64, c_int64, c_int64, c_double, c_int, c_int, c_int]
for _kind in _KINDS.values():
    for _name, _pointers in (("forward", 7), ("backward", 11)):
        getattr(_LIBRARY, f"{_name}_{_kind}").argtypes = [*[c_void_p] * _pointers, *_REST]
        getattr(_LIBRARY, f"{_name}_{_kind}").restype = None


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
    residual: torch.Tensor | None,
    eps: float,
    relu: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output, mean and variance (empty if given); x contiguous or channels last, the residual laid out alike."""
    if x.dtype not in _KINDS:
        wide = None if residual is None else residual.float()
        y, mean, var = forward(x.float(), weight, bias, mean, var, wide, eps, relu)
        return y.to(x.dtype), mean, var
    training = mean is None or var is None
    # converted tensors keep their names until the call is over, or their memory would be gone
    weight, bias = weight.float().contiguous(), bias.float().contiguous()
    y = torch.empty_like(x)
    batch_mean = torch.empty(x.shape[1] if training else 0, dtype=torch.float32)
    batch_var = torch.empty_like(batch_mean)
    used_mean = batch_mean if mean is None or training else mean.float().contiguous()
    used_var = batch_var if var is None or training else var.float().contiguous()
    getattr(_LIBRARY, f"forward_{_KINDS[x.dtype]}")(
        x.data_ptr(),
        weight.data_ptr(),
        bias.data_ptr(),
        None if residual is None else residual.data_ptr(),
        y.data_ptr(),
        used_mean.data_ptr(),
        used_var.data_ptr(),
        *_sizes(x),
        eps,
        training,
        relu,
        _is_last(x),
    )
    return y, batch_mean, batch_var


def backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    eps: float,
    relu: bool,
    training: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of x, weight, bias and, with y, of what was added before the ReLU (else empty)."""
    if x.dtype not in _KINDS:
        wide = None if y is None else y.float()
        dx, dweight, dbias, added = backward(dy.float(), x.float(), wide, weight, bias, mean, var, eps, relu, training)
        return dx.to(x.dtype), dweight, dbias, added.to(x.dtype)
    weights, biases = weight.float().contiguous(), bias.float().contiguous()
    mean, var = mean.float().contiguous(), var.float().contiguous()
    dx = torch.empty_like(x)
    added = x.new_empty(0) if y is None else torch.empty_like(x)
    dweight, dbias = torch.empty_like(weights), torch.empty_like(biases)
    getattr(_LIBRARY, f"backward_{_KINDS[x.dtype]}")(
        dy.data_ptr(),
        x.data_ptr(),
        None if y is None else y.data_ptr(),
        weights.data_ptr(),
        biases.data_ptr(),
        mean.data_ptr(),
        var.data_ptr(),
        dx.data_ptr(),
        added.data_ptr(),
        dweight.data_ptr(),
        dbias.data_ptr(),
        *_sizes(x),
        eps,
        training,
        relu,
        _is_last(x),
    )
    return dx, dweight.to(weight.dtype), dbias.to(bias.dtype), added


def _sizes(x: torch.Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], prod(x.shape[2:])


def _is_last(x: torch.Tensor) -> bool:
    """Whether memory holds rows of channels; a single position is both, and rows are faster then."""
    return not x.is_contiguous() or x.shape[:2].numel() == x.numel()
