"""Linear maps along single axes as small dense matrices, for resizing.

On a CPU core a matrix product of patch size runs near peak, so one product per axis beats a separable convolution and
an interpolation kernel up to edges of a few hundred voxels; borders are part of the matrix and need no padding.
"""

from __future__ import annotations

import math

import torch

CUBIC_A = -0.5  # Catmull-Rom, the third-order member of Keys' family (IEEE ASSP 29, 1981)


def apply_along_axis(image: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """Multiply every line of `image` along `axis` by `matrix`.

    Args:
        image: `[..., n, ...]` float32.
        matrix: `[m, n]` float32.
        axis: the axis of length n.

    Returns:
        `[..., m, ...]` float32.
    """
    axis %= image.ndim
    shape = image.shape
    if axis == image.ndim - 1:
        return (image.reshape(-1, shape[-1]) @ matrix.T).reshape(*shape[:-1], matrix.shape[0])
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    lines = image.reshape(before, shape[axis], after)
    out = torch.bmm(matrix.expand(before, *matrix.shape), lines)
    return out.reshape(*shape[:axis], matrix.shape[0], *shape[axis + 1 :])


def linear_matrix(size: int, positions: torch.Tensor) -> torch.Tensor:
    """Linear interpolation of `size` voxels at `positions` (`[m]`, in voxels), clamped to the edges; `[m, size]`."""
    positions = positions.double().clamp(0, size - 1)
    left = positions.floor()
    weight = positions - left
    return _scatter(torch.stack([left, left + 1], 1).long(), torch.stack([1 - weight, weight], 1), size)


def cubic_matrix(size: int, positions: torch.Tensor) -> torch.Tensor:
    """Cubic convolution (Keys) of `size` voxels at `positions` (`[m]`), edge voxels repeated; `[m, size]`."""
    left = positions.double().floor()
    index = left[:, None] + torch.arange(-1, 3)
    t = (positions.double()[:, None] - index).abs()
    near = ((CUBIC_A + 2) * t - (CUBIC_A + 3)) * t * t + 1
    far = ((CUBIC_A * t - 5 * CUBIC_A) * t + 8 * CUBIC_A) * t - 4 * CUBIC_A
    return _scatter(index.long(), torch.where(t <= 1, near, far), size)


def resize_positions(size: int, new_size: int) -> torch.Tensor:
    """Source positions of `new_size` voxels covering the same extent as `size` (voxel centres at i + 1/2); `[m]`."""
    return (torch.arange(new_size, dtype=torch.float64) + 0.5) * (size / new_size) - 0.5


def nearest_index(size: int, new_size: int) -> torch.Tensor:
    """Source voxel nearest to each position of `resize_positions`, the right one of two; `[m]` int64."""
    # integers: rounding would choose the wrong one of two that are equally near""
    return (2 * torch.arange(new_size) + 1) * size // (2 * new_size)


def _scatter(index: torch.Tensor, weight: torch.Tensor, size: int) -> torch.Tensor:
    """Rows of `weight` added at columns `index` (clamped to the edges): `[m, k]` to `[m, size]` float32."""
    matrix = torch.zeros(len(index), size, dtype=torch.float64)
    matrix.scatter_add_(1, index.clamp(0, size - 1), weight.contiguous())
    return matrix.float()
