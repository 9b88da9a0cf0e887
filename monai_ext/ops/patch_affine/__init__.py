"""Training patches cut, turned and scaled straight from stored volumes, touching only the voxels needed.

A patch voxel at offset `o` from the patch centre takes its value from position `centre + matrix @ o` of the volume.
Positions are rounded to 2^-24 voxel, so that quarter turns and mirrors hit voxels exactly, and classes vote with
integer weights in units of 2^-60: all forms give the same labels to the bit, and images that differ by rounding only.

Cubic convolution (a = -0.5): Keys, "Cubic convolution interpolation for digital image processing", IEEE Transactions
on Acoustics, Speech, and Signal Processing (1981).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from monai_ext.ops.forms import implementation
from monai_ext.ops.patch_affine.positions import fixed_point

LABEL_MODES = ("linear", "nearest")
IMAGE_TYPES = (torch.float32, torch.float64, torch.float16, torch.uint8, torch.int16)
LABEL_TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_EXTREMES = {dtype: (torch.iinfo(dtype).min, torch.iinfo(dtype).max) for dtype in LABEL_TYPES}


def patch_affine(
    images: Sequence[torch.Tensor],
    labels: Sequence[torch.Tensor] | None,
    matrices: torch.Tensor,
    centres: torch.Tensor,
    size: Sequence[int],
    order: int = 1,
    pad_label: int = 0,
    fill: float = 0.0,
    label_mode: str = "linear",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Sample one patch of every volume; not differentiable.

    Volumes may lie in memory maps: only pages that hold voxels needed are read, and nothing is written to them. A
    matrix of +-1 on the diagonal with a centre that puts patch voxels on voxels copies them exactly.

    Args:
        images: B tensors `[C, d, h, w]` float32, float16, uint8 or int16, of one C and any other edges, all on one
            device. Best with adjacent voxels along w; others are copied first.
        labels: B integer tensors `[1, d, h, w]` of one type (uint8 to int64) with the edges of the images, or None.
        matrices: `[B, 3, 3]` float64, patch offsets to volume offsets in voxels. On the CPU, to avoid waiting for a
            GPU.
        centres: `[B, 3]` float64, positions of the patch centres in the volumes in voxels, voxel 0 having its centre
            at 0; where the matrices are.
        size: edges of the patch.
        order: 1 for linear interpolation of the images, 3 for cubic convolution over 4 x 4 x 4 voxels.
        pad_label: class of the voxels outside the volume.
        fill: value of the images' voxels outside the volume.
        label_mode: `linear`: the class with the largest sum of linear weights, the smallest one on a tie; `nearest`:
            the class of the voxel at `floor(position + 0.5)`.

    Returns:
        images `[B, C, *size]` float32 (float64 from float64 in plain torch), and labels `[B, 1, *size]` of their own
        type or None.

    Raises:
        ValueError: shapes, types or values that do not fit.
    """
    _check_volumes(images, labels, pad_label)
    if order not in (1, 3):
        raise ValueError(f"patch_affine: order must be 1 or 3, found {order}")
    if label_mode not in LABEL_MODES:
        raise ValueError(f"patch_affine: label_mode must be of {LABEL_MODES}, found {label_mode!r}")
    if len(size) != 3 or min(size) < 0:
        raise ValueError(f"patch_affine: size must be 3 edges, found {tuple(size)}")
    if not math.isfinite(fill):
        raise ValueError(f"patch_affine: fill must be finite, found {fill}")
    if matrices.shape != (len(images), 3, 3) or centres.shape != (len(images), 3):
        raise ValueError(
            f"patch_affine: {len(images)} images need matrices [B, 3, 3] and centres [B, 3], found "
            f"{tuple(matrices.shape)} and {tuple(centres.shape)}"
        )
    if matrices.dtype != torch.float64 or centres.dtype != torch.float64:
        raise ValueError(f"patch_affine: positions must be float64, found {matrices.dtype} and {centres.dtype}")
    form = implementation("patch_affine", images[0].device)
    positions = fixed_point(matrices, centres, size)
    result: tuple[torch.Tensor, torch.Tensor | None] = form.patch_affine(
        images, labels, positions, size, order, pad_label, fill, label_mode == "nearest"
    )
    return result


patch_affine.not_compiled = True  # type: ignore[attr-defined]


def _check_volumes(images: Sequence[torch.Tensor], labels: Sequence[torch.Tensor] | None, pad_label: int) -> None:
    if not images:
        raise ValueError("patch_affine: no images")
    for image in images:
        if image.ndim != 4 or image.shape[0] != images[0].shape[0] or 0 in image.shape:
            raise ValueError(f"patch_affine: images must be [C, d, h, w] of one C, found {_shapes(images)}")
        if image.dtype not in IMAGE_TYPES or image.device != images[0].device:
            raise ValueError(f"patch_affine: images must be of {IMAGE_TYPES} on one device, found {image.dtype}")
    if labels is None:
        return
    if len(labels) != len(images):
        raise ValueError(f"patch_affine: {len(images)} images, but {len(labels)} labels")
    kind = labels[0].dtype
    if kind not in _EXTREMES or not _EXTREMES[kind][0] <= pad_label <= _EXTREMES[kind][1]:
        raise ValueError(f"patch_affine: labels must be of {LABEL_TYPES} that holds {pad_label}, found {kind}")
    for image, label in zip(images, labels, strict=True):
        if label.shape[1:] != image.shape[1:] or label.ndim != 4 or label.shape[0] != 1:
            raise ValueError(f"patch_affine: labels of {_shapes(labels)} for images of {_shapes(images)}")
        if label.dtype != kind or label.device != image.device:
            raise ValueError("patch_affine: labels must be of one type and lie where the images do")


def _shapes(tensors: Sequence[torch.Tensor]) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors]
