"""How much each voxel of the windows of a sliding-window prediction counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def gaussian_axis(size: int, sigma_scale: float = 0.125) -> torch.Tensor:
    """Gaussian along one axis: peak 1 at `size // 2`, standard deviation `sigma_scale * size`; `[size]` float64."""
    if size < 1 or not sigma_scale > 0:
        raise ValueError(f"size and sigma_scale must be positive, got {size} and {sigma_scale}")
    distance = torch.arange(size, dtype=torch.float64) - size // 2
    return torch.exp(-0.5 * (distance / (sigma_scale * size)) ** 2)


def gaussian_weights(window: Sequence[int], sigma_scale: float = 0.125) -> torch.Tensor:
    """Blending weights of one window: a Gaussian around its centre, so that borders count less.

    The peak is 1. Values that underflow float32 are raised to the smallest value that does not, because a voxel seen
    by a single window must keep a positive weight.

    Args:
        window: window size per axis, in voxels.
        sigma_scale: standard deviation as a fraction of the window size, per axis.

    Returns:
        `[*window]` float32, all positive.

    Raises:
        ValueError: a size or `sigma_scale` that is not positive.
    """
    weights = outer_product([gaussian_axis(size, sigma_scale) for size in window]).float()
    # subnormal numbers count as underflow: their reciprocal overflows
    usable = weights >= torch.finfo(torch.float32).tiny
    return torch.where(usable, weights, weights[usable].min())


def constant_weights(window: Sequence[int]) -> torch.Tensor:
    """Blending weights of one window: 1 everywhere, `[*window]` float32."""
    return torch.ones(tuple(window))


def shared_weights(
    image_shape: Sequence[int], window: Sequence[int], positions: Sequence[Sequence[int]], blend: str, copies: int = 1
) -> list[torch.Tensor]:
    """Blending weights of all windows of a grid, which add up to one at every voxel of the volume.

    Windows form a grid and a window's weights are a product of one vector per axis, so their sum over all windows is
    the product of the sums per axis, and the vectors can be divided by it beforehand. A voxel in a single window gets
    1 however small the Gaussian is there.

    Args:
        image_shape: voxels per axis, at least those of the window.
        window: window size per axis, in voxels.
        positions: starts per axis, without gaps (`window_positions`).
        blend: `gaussian` or `constant`.
        copies: how often every window is added.

    Returns:
        One `[len(positions[i]), window[i]]` float32 per axis: a row is the factor of all windows that start there.
    """
    shared = []
    with torch.inference_mode(False):  # a tensor made in inference mode would be barred from autograd
        for size, roi, starts in zip(image_shape, window, positions, strict=True):
            axis = gaussian_axis(roi) if blend == "gaussian" else torch.ones(roi, dtype=torch.float64)
            places = torch.tensor(list(starts))[:, None] + torch.arange(roi)
            rows = axis.expand(len(starts), roi)
            total = torch.zeros(size, dtype=torch.float64).index_put_((places,), rows, accumulate=True)
            shared.append((rows / total[places]).float())
        shared[0] /= copies
    return shared


def outer_product(vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Product of one vector `[n_i]` per axis -> `[n_0, n_1, ...]`."""
    product = torch.ones((), dtype=vectors[0].dtype, device=vectors[0].device)
    for vector in vectors:
        product = product[..., None] * vector
    return product
