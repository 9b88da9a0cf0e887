"""C++ form: rows of the patch in parallel, sampled straight from the volumes as they lie in memory or a memory map."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import numpy as np
import torch

from monai_ext.ops import cpu_build
from monai_ext.ops.patch_affine import reference

_TYPES = {
    torch.float32: 0,
    torch.float16: 1,
    torch.uint8: 2,
    torch.int16: 3,
    torch.int32: 4,
    torch.int64: 5,
    torch.int8: 6,
}
_HUGE_PAGES = 1 << 22  # bytes; numpy backs larger arrays with huge pages: filling 40 MB takes a tenth of the time
_Integers = ctypes.c_int64 * 7
_Edges = ctypes.c_int64 * 3

_library = cpu_build.load("patch_affine")
_image, _label = _library.patch_affine_image, _library.patch_affine_label
_pointer, _number = ctypes.c_void_p, ctypes.c_int64
_image.argtypes = (_pointer, ctypes.c_int, _pointer, _pointer, _pointer, ctypes.c_int, ctypes.c_float, _pointer)
_label.argtypes = (_pointer, ctypes.c_int, _pointer, _pointer, _pointer, ctypes.c_int, _number, _pointer)
_image.restype = _label.restype = None


def patch_affine(
    images: Sequence[torch.Tensor],
    labels: Sequence[torch.Tensor] | None,
    positions: torch.Tensor,
    size: Sequence[int],
    order: int,
    pad_label: int,
    fill: float,
    nearest: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As in `reference`; float64 images go there."""
    if any(image.dtype == torch.float64 for image in images):
        return reference.patch_affine(images, labels, positions, size, order, pad_label, fill, nearest)
    edges = _Edges(*size)
    affine = positions.data_ptr()
    out = _empty((len(images), images[0].shape[0], *size), torch.float32)
    target, goal, voxels = out.data_ptr(), out[0].numel() * 4, 12 * 8
    for b, image in enumerate(images):
        image, layout = _layout(image)
        _image(
            image.data_ptr(), _TYPES[image.dtype], layout, affine + b * voxels, edges, order, fill, target + b * goal
        )
    if labels is None:
        return out, None
    classes = _empty((len(images), 1, *size), labels[0].dtype)
    target, goal = classes.data_ptr(), classes[0].numel() * classes.element_size()
    for b, label in enumerate(labels):
        label, layout = _layout(label)
        _label(
            label.data_ptr(), _TYPES[label.dtype], layout, affine + b * voxels, edges, nearest, pad_label,
            target + b * goal,
        )  # fmt: skip
    return out, classes


def _layout(volume: torch.Tensor) -> tuple[torch.Tensor, ctypes.Array[ctypes.c_int64]]:
    """Shape and strides of a volume, copied if voxels along its last axis are apart."""
    channel, depth, height, width = volume.stride()
    if width != 1 and volume.shape[3] > 1:
        volume = volume.contiguous()
        channel, depth, height, _ = volume.stride()
    return volume, _Integers(*volume.shape, channel, depth, height)


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if math.prod(shape) * dtype.itemsize < _HUGE_PAGES:
        return torch.empty(shape, dtype=dtype)
    return torch.from_numpy(np.empty(shape, str(dtype).removeprefix("torch.")))
