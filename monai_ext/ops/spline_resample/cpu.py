"""C++ form of the resampling."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np
import torch

from monai_ext.ops import cpu_build
from monai_ext.ops.axis_weights import LABEL_UNIT, AxisWeights, axis_weights, label_weights
from monai_ext.ops.spline_resample import reference

# as the kernel numbers them; values of unsigned 32 and 64 bits are the same below 2**31 and 2**63
_LOGIT_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_LABEL_TYPES = {torch.int8: 0, torch.bool: 1, torch.uint8: 1, torch.int16: 2, torch.uint16: 3}
_LABEL_TYPES |= {torch.int32: 4, torch.uint32: 4, torch.int64: 5, torch.uint64: 5}
_pointer, _long, _int = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int


class _Axis(ctypes.Structure):
    _fields_ = [("n_in", _long), ("n_out", _long), ("taps", _long), ("first", _pointer), ("weights", _pointer)]


_kernels = cpu_build.load("spline_resample")
_kernels.resample_image.argtypes = [_pointer, _pointer, _pointer, _pointer, _long, _pointer, _int]
_kernels.resample_labels.argtypes = [_pointer, _int, _pointer, _pointer, _int]
_kernels.resample_logits.argtypes = [_pointer, _int, _long, _pointer, _pointer, _pointer, _int]
_kernels.resample_logits_argmax.argtypes = [_pointer, _int, _long, _pointer, _pointer, _pointer, _int]
for _function in ("resample_image", "resample_labels", "resample_logits", "resample_logits_argmax"):
    getattr(_kernels, _function).restype = None


class _Axes:
    """The three axes as the kernel reads them; holds the memory that they point to."""

    def __init__(self, tables: Sequence[AxisWeights], dtype: type = np.float32, unit: int = 1) -> None:
        self._memory: list[tuple[np.ndarray, np.ndarray]] = [
            (np.ascontiguousarray(t.first, np.int64), np.ascontiguousarray((t.weights * unit).astype(dtype)))
            for t in tables
        ]
        rows = zip(tables, self._memory, strict=True)
        self._axes = (_Axis * 3)(*(_Axis(t.n_in, t.n_out, t.taps, a.ctypes.data, b.ctypes.data) for t, (a, b) in rows))

    @property
    def pointer(self) -> int:
        return ctypes.addressof(self._axes)


def resample_image(image: torch.Tensor, shape: Sequence[int], separate_axis: int | None) -> torch.Tensor:
    """As in the reference, which computes float64."""
    if image.dtype == torch.float64:
        return reference.resample_image(image, shape, separate_axis)
    axes = _Axes(_tables(image.shape[1:], shape, 3, separate_axis))
    result = torch.empty((image.shape[0], *shape))
    for source, target in zip(image, result, strict=True):
        volume = source.to(torch.float32).contiguous()
        low, high = (limit.contiguous() for limit in reference.value_range(volume, separate_axis))
        limited = -1 if separate_axis is None else separate_axis
        limits = low.data_ptr(), high.data_ptr(), limited
        _kernels.resample_image(volume.data_ptr(), axes.pointer, *limits, target.data_ptr(), torch.get_num_threads())
    return result


def resample_labels(labels: torch.Tensor, shape: Sequence[int], separate_axis: int | None) -> torch.Tensor:
    """As in the reference."""
    labels = labels.contiguous()
    axes = _Axes(_tables(labels.shape, shape, 1, separate_axis, label_weights), np.int64, LABEL_UNIT)
    result = torch.empty(tuple(shape), dtype=labels.dtype)
    source = labels.data_ptr(), _LABEL_TYPES[labels.dtype]
    _kernels.resample_labels(*source, axes.pointer, result.data_ptr(), torch.get_num_threads())
    return result


def resample_logits(logits: torch.Tensor, shape: Sequence[int], separate_axis: int | None) -> torch.Tensor:
    """As in the reference, which computes float64."""
    if logits.dtype == torch.float64:
        return reference.resample_logits(logits, shape, separate_axis)
    return _linear(_dense_rows(logits), _tables(logits.shape[1:], shape, 1, separate_axis), torch.get_num_threads())


def use_logit_tiles(
    logits: torch.Tensor,
    shape: Sequence[int],
    separate_axis: int | None,
    use: Callable[[reference.Region, torch.Tensor], None],
) -> None:
    """As in the reference, which computes float64."""
    if logits.dtype == torch.float64:
        return reference.use_logit_tiles(logits, shape, separate_axis, use)
    logits = _dense_rows(logits)
    tables = _tables(logits.shape[1:], shape, 1, separate_axis)

    def make(region: reference.Region) -> None:
        windows, parts = zip(*(table.part(outputs) for table, outputs in zip(tables, region, strict=True)), strict=True)
        use(region, _linear(logits[(slice(None), *windows)], parts, threads=1))

    reference.for_each_tile(make, reference.tiles(logits.shape[1:], shape, 1))


def resample_logits_argmax(logits: torch.Tensor, shape: Sequence[int], separate_axis: int | None) -> torch.Tensor:
    """As in the reference, which computes float64; a NaN affects only the outputs that read it."""
    if logits.dtype == torch.float64:
        return reference.resample_logits_argmax(logits, shape, separate_axis)
    logits = _dense_rows(logits)
    axes = _Axes(_tables(logits.shape[1:], shape, 1, separate_axis))
    result = torch.empty(tuple(shape), dtype=torch.uint8 if len(logits) <= 256 else torch.uint16)
    threads = torch.get_num_threads()
    _kernels.resample_logits_argmax(*_logits(logits), axes.pointer, result.data_ptr(), threads)
    return result


def _linear(logits: torch.Tensor, tables: Sequence[AxisWeights], threads: int) -> torch.Tensor:
    axes = _Axes(tables)
    result = torch.empty((len(logits), *(table.n_out for table in tables)))
    _kernels.resample_logits(*_logits(logits), axes.pointer, result.data_ptr(), threads)
    return result


def _logits(logits: torch.Tensor) -> tuple[int, int, int, ctypes.Array]:
    return logits.data_ptr(), _LOGIT_TYPES[logits.dtype], len(logits), (_long * 3)(*logits.stride()[:3])


def _dense_rows(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.stride(3) == 1 else logits.contiguous()


def _tables(
    shape: Sequence[int],
    new_shape: Sequence[int],
    order: int,
    separate_axis: int | None,
    weights: Callable[[int, int, int], AxisWeights] = axis_weights,
) -> list[AxisWeights]:
    sizes = enumerate(zip(shape, new_shape, strict=True))
    return [weights(a, b, 0 if axis == separate_axis else order) for axis, (a, b) in sizes]
