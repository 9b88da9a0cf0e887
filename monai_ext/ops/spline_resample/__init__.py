"""Change the voxel grid of images, label maps and logits.

Grids are aligned by their outer faces: output voxel `i` of `n_out` lies at `(i + 0.5) * n_in / n_out - 0.5` of the
input, and values beyond the border repeat the border voxel. The rules follow nnU-Net v2 (Isensee et al. 2021), which
calls scikit-image: images by cubic B-splines (Unser 1999), label maps linearly for each class (the largest share wins),
logits linearly, and order 0 along an axis that is much coarser than the others.

Apart from input and result a function holds a few megabytes. No gradients. Tensors come back on their device; arrays
come back as arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar, overload

import numpy as np
import torch

from monai_ext.ops.forms import implementation

WHY_NO_CUDA = "matrix products of the reference run on the device"
__all__ = ["resample_image", "resample_labels", "resample_logits", "resample_logits_argmax", "use_logit_tiles"]

Volume = TypeVar("Volume", np.ndarray, torch.Tensor)
_OP = "spline_resample"


def resample_image(image: Volume, shape: Sequence[int], separate_axis: int | None = None) -> Volume:
    """Resample by cubic B-splines; with `separate_axis` slice by slice, and the nearest slice along that axis.

    Results are limited to the range of the channel (of the slice, with `separate_axis`): splines overshoot at edges.

    Args:
        image: `[C, d, h, w]`, array or tensor.
        shape: new size `(d, h, w)`.
        separate_axis: spatial axis of order 0, for voxels that are much longer along it.

    Returns:
        `[C, *shape]` float32, float64 if the image is float64; a copy, also when the shape stays the same.

    Raises:
        ValueError: another number of axes, an empty axis, or no such `separate_axis`.
    """
    tensor, shape = _tensor(image), _checked(image.shape[1:], shape, separate_axis)
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    if tensor.shape[1:] == shape:
        result = tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
    else:
        result = implementation(_OP, tensor.device).resample_image(tensor, shape, separate_axis)
    return _like(image, result)


def resample_labels(labels: Volume, shape: Sequence[int], separate_axis: int | None = None) -> Volume:
    """Resample each class's indicator linearly and give every voxel the class with the largest share.

    Shares are equal where an output lies midway between inputs; then the class at the higher coordinate wins. Where no
    coordinate decides (diagonals), the smaller class does.

    Args:
        labels: `[d, h, w]` integers, array or tensor.
        shape: new size `(d, h, w)`.
        separate_axis: spatial axis of order 0, for voxels that are much longer along it.

    Returns:
        `[*shape]`, dtype of the input; a copy, also when the shape stays the same.

    Raises:
        ValueError: not integers, another number of axes, an empty axis, or no such `separate_axis`.
    """
    tensor, shape = _tensor(labels), _checked(labels.shape, shape, separate_axis)
    if tensor.is_floating_point() or tensor.is_complex():
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if tensor.shape == shape:
        result = tensor.clone(memory_format=torch.contiguous_format)
    else:
        result = implementation(_OP, tensor.device).resample_labels(tensor, shape, separate_axis)
    return _like(labels, result)


def resample_logits(logits: torch.Tensor, shape: Sequence[int], separate_axis: int | None = None) -> torch.Tensor:
    """Resample linearly, every class apart.

    Args:
        logits: `[K, d, h, w]`, any float dtype.
        shape: new size `(d, h, w)`.
        separate_axis: spatial axis of order 0, for voxels that are much longer along it.

    Returns:
        `[K, *shape]` float32 (float64 of float64) on the device of the input.

    Raises:
        ValueError: not floating, another number of axes, an empty axis, or no such `separate_axis`.
    """
    shape = _checked_logits(logits, shape, separate_axis)
    return implementation(_OP, logits.device).resample_logits(logits.detach(), shape, separate_axis)


def use_logit_tiles(
    logits: torch.Tensor,
    shape: Sequence[int],
    separate_axis: int | None,
    use: Callable[[tuple[slice, ...], torch.Tensor], None],
) -> None:
    """Resample as `resample_logits`, in parts that fit into memory.

    Args:
        logits: `[K, d, h, w]`, any float dtype.
        shape: new size `(d, h, w)`.
        separate_axis: spatial axis of order 0, for voxels that are much longer along it.
        use: called with a region of the output and its logits `[K, *region]` float32, from several threads.

    Raises:
        ValueError: as `resample_logits`.
    """
    shape = _checked_logits(logits, shape, separate_axis)
    implementation(_OP, logits.device).use_logit_tiles(logits.detach(), shape, separate_axis, use)


@overload
def resample_logits_argmax(
    logits: torch.Tensor, shape: Sequence[int], separate_axis: int | None = ..., as_tensor: Literal[False] = ...
) -> np.ndarray: ...


@overload
def resample_logits_argmax(
    logits: torch.Tensor, shape: Sequence[int], separate_axis: int | None, as_tensor: Literal[True]
) -> torch.Tensor: ...


def resample_logits_argmax(
    logits: torch.Tensor, shape: Sequence[int], separate_axis: int | None = None, as_tensor: bool = False
) -> np.ndarray | torch.Tensor:
    """Label map of the resampled logits, without ever holding them.

    Args:
        logits: `[K, d, h, w]`, any float dtype. No class after a NaN wins where it is read.
        shape: new size `(d, h, w)`.
        separate_axis: spatial axis of order 0, for voxels that are much longer along it.
        as_tensor: a tensor on the device of the logits instead of an array.

    Returns:
        `[*shape]` index of the largest logit (the first of equals), uint8, or uint16 from 257 classes on.

    Raises:
        ValueError: as `resample_logits`.
    """
    shape = _checked_logits(logits, shape, separate_axis)
    result = implementation(_OP, logits.device).resample_logits_argmax(logits.detach(), shape, separate_axis)
    return result if as_tensor else result.cpu().numpy()


for _function in (resample_image, resample_labels, resample_logits, use_logit_tiles, resample_logits_argmax):
    setattr(_function, "not_compiled", True)  # noqa: B010 - functions declare no attributes


def _checked_logits(logits: torch.Tensor, shape: Sequence[int], separate_axis: int | None) -> tuple[int, ...]:
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating, got {logits.dtype}")
    if len(logits) == 0:
        raise ValueError("logits must have at least one class")
    return _checked(logits.shape[1:], shape, separate_axis)


def _checked(old: Sequence[int], new: Sequence[int], separate_axis: int | None) -> tuple[int, ...]:
    shape = tuple(int(n) for n in new)
    if len(old) != 3 or len(shape) != 3:
        raise ValueError(f"needs three spatial axes, got {tuple(old)} and the new size {shape}")
    if min(*old, *shape) < 1:
        raise ValueError(f"no axis may be empty, got {tuple(old)} and the new size {shape}")
    if separate_axis not in (None, 0, 1, 2):
        raise ValueError(f"separate_axis must be None, 0, 1 or 2, got {separate_axis!r}")
    return shape


def _tensor(values: np.ndarray | torch.Tensor) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        return values.detach()
    # a writable copy of read-only arrays, and one in order of others: torch has neither
    return torch.from_numpy(np.require(values, values.dtype.newbyteorder("="), ["C", "W"]))


def _like(source: Volume, result: torch.Tensor) -> Volume:
    return result if isinstance(source, torch.Tensor) else result.numpy()
