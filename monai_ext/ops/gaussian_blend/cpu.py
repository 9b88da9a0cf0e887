"""C++ form for processors. float16 outputs are converted before; sums whose last axis has gaps go to the reference."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import POINTER, c_int, c_int64, c_void_p

import torch

from monai_ext.ops import cpu_build
from monai_ext.ops.gaussian_blend import reference

_LIBRARY = cpu_build.load("gaussian_blend")
_LAYOUT = POINTER(c_int64)
_POINTERS = POINTER(c_void_p)
_LIBRARY.accumulate.argtypes = [c_void_p, c_void_p, _LAYOUT]
_LIBRARY.scale.argtypes = [c_void_p, _LAYOUT, c_int64, _POINTERS]
_LIBRARY.argmax.argtypes = [c_void_p, c_void_p, _LAYOUT, c_int64, _POINTERS, c_void_p, c_int, _LAYOUT]
for _function in (_LIBRARY.accumulate, _LIBRARY.scale, _LIBRARY.argmax):
    _function.restype = None
_ONE = torch.ones(1)


def accumulate(
    sums: torch.Tensor,
    outputs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    starts: Sequence[Sequence[int]],
    flips: Sequence[Sequence[int]],
    fresh: Sequence[Sequence[int]],
    lines: torch.Tensor | None,
) -> None:
    """See `monai_ext.ops.gaussian_blend.accumulate`."""
    if not _is_addressable(sums, lines):
        reference.accumulate(sums, outputs, weights, starts, flips, fresh, lines)
        return
    half = all(output.dtype == torch.bfloat16 for output in outputs)
    dtype = torch.bfloat16 if half else torch.float32
    outputs = [output.to(dtype).contiguous() for output in outputs]
    classes, *roi = outputs[0].shape
    lead = [0] * (3 - len(roi))  # windows of fewer axes are flat ones of three
    vectors = [_ONE for _ in lead] + [vector.float().contiguous() for vector in weights]
    numbers = [*_layout(sums, lines), classes, len(outputs), half, *[1 for _ in lead], *roi]
    numbers += [vector.data_ptr() for vector in vectors]
    numbers += [0 if vector.ndim == 1 else vector.shape[1] for vector in vectors]
    for output, start, flip, corner in zip(outputs, starts, flips, fresh, strict=True):
        numbers += [output.data_ptr(), *lead, *start, *lead, *corner]
        numbers.append(sum([1 << (axis + len(lead)) for axis in flip]))
    packed = (c_int64 * len(numbers))(*numbers)
    _LIBRARY.accumulate(sums.data_ptr(), None if lines is None else lines.data_ptr(), packed)


def finalise(
    sums: torch.Tensor,
    reciprocals: Sequence[torch.Tensor] | None,
    mode: str,
    labels: torch.Tensor | None,
    lines: torch.Tensor | None,
) -> None:
    """See `monai_ext.ops.gaussian_blend.finalise`."""
    if mode == "logits" and reciprocals is None:
        return
    # torch's softmax was four times as fast as one of our own
    if mode == "softmax" or not _is_addressable(sums, lines) or (labels is not None and labels.stride(-1) != 1):
        reference.finalise(sums, reciprocals, mode, labels, lines)
        return
    missing = 4 - sums.ndim if lines is None else 0
    vectors = [] if reciprocals is None else [*[_ONE] * missing, *(r.float().contiguous() for r in reciprocals)]
    factors = (c_void_p * 3)(*(vector.data_ptr() for vector in vectors)) if vectors else None
    classes = sums.shape[0] if lines is None else sums.shape[1]
    if labels is None:
        _LIBRARY.scale(sums.data_ptr(), (c_int64 * 7)(*_layout(sums, None)), classes, factors)
        return
    strides = (*[0] * missing, *labels.stride())[:2]
    table = None if lines is None else lines.data_ptr()
    _LIBRARY.argmax(
        *(sums.data_ptr(), table, (c_int64 * 7)(*_layout(sums, lines)), classes, factors),
        *(labels.data_ptr(), labels.element_size(), (c_int64 * 2)(*strides)),
    )


def _is_addressable(sums: torch.Tensor, lines: torch.Tensor | None) -> bool:
    return (sums.stride(-1) == 1 or sums.shape[-1] == 1) and (lines is None or lines.stride(1) == 1)


def _layout(sums: torch.Tensor, lines: torch.Tensor | None) -> list[int]:
    """Strides of table, classes, planes and lines, then the sizes of planes, lines and rows."""
    if lines is not None:
        line, across, _ = sums.stride()
        return [lines.stride(0), across, 0, line, *lines.shape, sums.shape[2]]
    across, *strides = sums.stride()
    missing = 3 - len(strides)
    sizes = [*[1] * missing, *sums.shape[1:]]
    return [0, across, *([0] * missing + strides)[:2], *sizes]
