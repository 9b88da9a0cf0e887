"""What blur and low resolution do along one axis, as small tables."""

from __future__ import annotations

import math

import torch

TINY = 1e-7  # keeps a constant channel constant under a gamma curve


def gaussian_taps(sigma: float) -> torch.Tensor:
    """Normalized Gaussian of radius ceil(3 sigma) voxels; `[2 radius + 1]` float64, the single 1 for sigma 0."""
    if sigma <= 0:
        return torch.ones(1, dtype=torch.float64)
    radius = math.ceil(3 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    return taps / taps.sum()


def gaussian_matrix(size: int, sigma: float) -> torch.Tensor:
    """The blur of `size` voxels with edge voxels repeated; `[size, size]` float64, rows sum to 1."""
    taps = gaussian_taps(sigma)
    radius = len(taps) // 2
    index = (torch.arange(size)[:, None] + torch.arange(-radius, radius + 1)).clamp_(0, size - 1)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, index, taps.repeat(size, 1))


def coarse_size(size: int, zoom: float) -> int:
    """Voxels left of `size` at a low resolution."""
    return max(1, round(size * zoom))


def nearest_voxels(size: int, coarse: int) -> torch.Tensor:
    """Fine voxel that each of `coarse` ones shows: the one at its centre, `[coarse]` int64, exact in integers."""
    return (2 * torch.arange(coarse) + 1) * size // (2 * coarse)


def linear_places(size: int, coarse: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where `size` fine voxels lie among `coarse` ones of the same extent (centres at i + 1/2), clamped to the edges.

    Returns:
        The coarse voxels at the left and at the right, `[size]` int64 each, and the weight of the right one, `[size]`
        float64.
    """
    position = ((2 * torch.arange(size) + 1) * coarse - size).clamp_(0, 2 * size * (coarse - 1))  # in 1 / (2 size)
    left = position // (2 * size)
    return left, (left + 1).clamp_(max=coarse - 1), (position % (2 * size)).double() / (2 * size)
