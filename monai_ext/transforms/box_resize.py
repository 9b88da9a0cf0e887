"""Resizing of a box of an image or volume with antialiasing, and the way back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812

from monai_ext.errors import InputError
from monai_ext.transforms.separable import CUBIC_A, apply_along_axis

INTERPOLATIONS = ("bilinear", "bicubic")


def check_interpolation(owner: str, interpolation: str) -> str:
    """Return the name; raise `InputError` if it is none of `INTERPOLATIONS`."""
    if interpolation not in INTERPOLATIONS:
        raise InputError(
            f"{owner}: interpolation {interpolation!r} is not known. Cure: one of {', '.join(INTERPOLATIONS)}"
        )
    return interpolation


def resize_box(
    image: torch.Tensor, box: Sequence[int], size: Sequence[int], interpolation: str = "bilinear"
) -> torch.Tensor:
    """Cut a box out and resize it; only voxels within the box are looked at.

    Where the box shrinks, the filter widens with it (antialiasing), as Pillow's `resize` does.

    Args:
        image: `[C, *spatial]` uint8 or floating point, 2 or 3 axes.
        box: first voxels of all axes, then the voxels after the last: `(y0, x0, y1, x1)`.
        size: voxels of the result along every axis.
        interpolation: `bilinear` (linear along each axis) or `bicubic` (Keys, a = -0.5).

    Returns:
        `[C, *size]` of the same type; uint8 is rounded and clamped to 0 to 255. Never a view of the input.
    """
    axes = len(size)
    start, stop = box[:axes], box[axes:]
    part = image
    for axis in range(axes):
        part = part.narrow(axis + 1, int(start[axis]), int(stop[axis]) - int(start[axis]))
    if tuple(part.shape[1:]) == tuple(size):
        return part.clone()
    if axes == 2 and (image.dtype in (torch.uint8, torch.float32)):
        return F.interpolate(part[None], tuple(size), mode=interpolation, antialias=True, align_corners=False)[0]
    out = part.float()
    # the axis that shrinks most goes first: the others then have less to do
    for axis in sorted(range(axes), key=lambda a: size[a] / part.shape[a + 1]):
        if part.shape[axis + 1] != size[axis]:
            matrix = resize_matrix(part.shape[axis + 1], int(size[axis]), interpolation).to(out.device)
            out = apply_along_axis(out, matrix, axis + 1)
    return out.round_().clamp_(0, 255).to(torch.uint8) if image.dtype == torch.uint8 else out.to(image.dtype)


def restore_box(
    image: torch.Tensor, box: Sequence[int], shape: Sequence[int], interpolation: str = "bilinear"
) -> torch.Tensor:
    """Inverse of `resize_box`: the image at its place and size in a volume of zeros.

    Args:
        image: `[C, *size]`.
        box: as given to `resize_box`.
        shape: voxels of the volume the box was cut out of.
        interpolation: as in `resize_box`.

    Returns:
        `[C, *shape]` of the same type.
    """
    axes = len(shape)
    edges = [int(b) - int(a) for a, b in zip(box[:axes], box[axes:], strict=True)]
    whole = (0,) * axes + tuple(image.shape[1:])
    out = image.new_zeros((image.shape[0], *shape))
    place = out
    for axis in range(axes):
        place = place.narrow(axis + 1, int(box[axis]), edges[axis])
    place.copy_(resize_box(image, whole, edges, interpolation))
    return out


def resize_matrix(size: int, new_size: int, interpolation: str) -> torch.Tensor:
    """Weights of `size` voxels for each of `new_size` that cover the same extent; `[new_size, size]` float32.

    Each row sums to 1; what the filter would read beyond the border is left out.
    """
    scale = size / new_size
    width = max(scale, 1.0)
    centre = (torch.arange(new_size, dtype=torch.float64) + 0.5) * scale
    distance = ((torch.arange(size, dtype=torch.float64) + 0.5 - centre[:, None]) / width).abs()
    if interpolation == "bilinear":
        weights = (1 - distance).clamp_(min=0)
    else:
        near = ((CUBIC_A + 2) * distance - (CUBIC_A + 3)) * distance * distance + 1
        far = ((CUBIC_A * distance - 5 * CUBIC_A) * distance + 8 * CUBIC_A) * distance - 4 * CUBIC_A
        weights = torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))
    return (weights / weights.sum(1, keepdim=True)).float()


def box_affine(box: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """Voxel coordinates of the result to those of the image, homogeneous; `[axes + 1, axes + 1]` float64."""
    axes = len(size)
    affine = torch.eye(axes + 1, dtype=torch.float64)
    for axis in range(axes):
        scale = (box[axes + axis] - box[axis]) / size[axis]
        affine[axis, axis] = scale
        affine[axis, axes] = box[axis] + (scale - 1) / 2
    return affine
