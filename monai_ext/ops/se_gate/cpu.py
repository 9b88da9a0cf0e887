"""C++ form for processors; float16, which processors hardly use, is computed as float32."""

from __future__ import annotations

from ctypes import c_double, c_int, c_int64, c_void_p
from math import prod

import torch

from monai_ext.ops import cpu_build

_LIBRARY = cpu_build.load("se_gate")
_KINDS = {torch.float32: "float", torch.bfloat16: "bfloat16"}
_SIZES = [c_int64] * 4
for _kind in _KINDS.values():
    getattr(_LIBRARY, f"forward_{_kind}").argtypes = [*[c_void_p] * 16, *_SIZES, c_double, c_int, c_int, c_int]
    getattr(_LIBRARY, f"forward_{_kind}").restype = None
    getattr(_LIBRARY, f"backward_{_kind}").argtypes = [*[c_void_p] * 20, *_SIZES, c_double, c_int, c_int]
    getattr(_LIBRARY, f"backward_{_kind}").restype = None


def forward(
    x: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
    residual: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
    eps: float,
    training: bool,
    relu: bool,
) -> tuple[torch.Tensor, ...]:
    """y, batch mean and variance, centre, hidden, gate; x contiguous or channels last, the residual laid out alike."""
    if x.dtype not in _KINDS:
        rest = (norm_weight, norm_bias, mean, var, eps, training, relu)
        y, *others = forward(x.float(), w1, b1, w2, b2, None if residual is None else residual.float(), *rest)
        return y.to(x.dtype), *others
    batch, channels, hidden = x.shape[0], x.shape[1], w1.shape[0]
    training = training and norm_weight is not None
    statistics = channels if training else 0
    shapes = ((statistics,), (statistics,), (batch, channels), (batch, hidden), (batch, channels))
    outputs = [torch.empty_like(x), *(torch.empty(shape, dtype=torch.float32) for shape in shapes)]
    # converted tensors are held in a list until the call is over, or their memory would be gone
    inputs = [x, *map(_plain, (w1, b1, w2, b2)), None if residual is None else residual.to(x.dtype)]
    inputs += map(_plain, (norm_weight, norm_bias, mean, var))
    getattr(_LIBRARY, f"forward_{_KINDS[x.dtype]}")(
        *map(_address, inputs), *map(_address, outputs), *_sizes(x, w1), eps, training, relu, not x.is_contiguous()
    )
    return tuple(outputs)


def backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor | None,
    w1: torch.Tensor,
    w2: torch.Tensor,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
    centre: torch.Tensor,
    hidden: torch.Tensor,
    gate: torch.Tensor,
    eps: float,
    training: bool,
) -> tuple[torch.Tensor, ...]:
    """Gradients of x, residual (empty without `y`), w1, b1, w2, b2, and of weight and bias (empty without a norm)."""
    if x.dtype not in _KINDS:
        rest = (w1, w2, norm_weight, norm_bias, mean, var, centre, hidden, gate, eps, training)
        dx, added, *others = backward(dy.float(), x.float(), None if y is None else y.float(), *rest)
        return dx.to(x.dtype), added.to(x.dtype), *others
    norm = x.shape[1] if norm_weight is not None else 0
    outputs = [torch.empty_like(x), x.new_empty(0) if y is None else torch.empty_like(x)]
    shapes = (w1.shape, w1.shape[:1], w2.shape, w2.shape[:1], (norm,), (norm,))
    outputs += (torch.empty(shape, dtype=torch.float32) for shape in shapes)
    inputs = [dy, x, y, *map(_plain, (w1, w2, norm_weight, norm_bias, mean, var, centre, hidden, gate))]
    getattr(_LIBRARY, f"backward_{_KINDS[x.dtype]}")(
        *map(_address, inputs),
        *map(_address, outputs),
        *_sizes(x, w1),
        eps,
        training and norm_weight is not None,
        not x.is_contiguous(),
    )
    return tuple(outputs)


def _plain(value: torch.Tensor | None) -> torch.Tensor | None:
    return None if value is None else value.to(torch.float32).contiguous()


def _address(value: torch.Tensor | None) -> int | None:
    return None if value is None else value.data_ptr()


def _sizes(x: torch.Tensor, w1: torch.Tensor) -> tuple[int, int, int, int]:
    return x.shape[0], x.shape[1], w1.shape[0], prod(x.shape[2:])
