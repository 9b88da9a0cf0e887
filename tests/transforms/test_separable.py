"""Matrices along axes against scipy and torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from monai_ext.transforms.separable import (
    apply_along_axis,
    cubic_matrix,
    gaussian_matrix,
    linear_matrix,
    nearest_index,
    resize_positions,
)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_apply_is_a_contraction(axis: int) -> None:
    image = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    matrix = torch.randn(6, image.shape[axis], generator=torch.Generator().manual_seed(1))
    expected = torch.movedim(torch.tensordot(matrix, image, ([1], [axis])), 0, axis)
    # float32 sums of at most 5 products of size 1
    torch.testing.assert_close(apply_along_axis(image, matrix, axis), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.5])
@pytest.mark.parametrize("size", [1, 3, 20])
def test_gaussian_is_that_of_scipy(sigma: float, size: int) -> None:
    import numpy as np
    from scipy.ndimage import gaussian_filter1d

    radius = int(np.ceil(3 * sigma))
    expected = gaussian_filter1d(np.eye(size), sigma, axis=0, mode="nearest", radius=radius)
    # the matrix is rounded to float32
    torch.testing.assert_close(gaussian_matrix(size, sigma), torch.from_numpy(expected).float(), atol=1e-7, rtol=0)


@pytest.mark.parametrize(("size", "new"), [(5, 9), (9, 5), (4, 4), (1, 6)])
def test_linear_and_nearest_are_those_of_torch(size: int, new: int) -> None:
    line = torch.randn(1, 1, size, generator=torch.Generator().manual_seed(0))
    linear = apply_along_axis(line, linear_matrix(size, resize_positions(size, new)), -1)
    # torch computes its positions in float32
    torch.testing.assert_close(linear, F.interpolate(line, new, mode="linear"), atol=1e-5, rtol=0)
    assert torch.equal(line[..., nearest_index(size, new)], F.interpolate(line, new, mode="nearest-exact"))


def test_cubic_reproduces_parabolas_inside() -> None:
    positions = torch.tensor([2.0, 2.25, 3.5, 4.9])
    values = torch.arange(9.0) ** 2
    # Keys with a = -1/2 is exact for second-degree polynomials; float32 of values up to 64
    torch.testing.assert_close(cubic_matrix(9, positions) @ values, positions**2, atol=1e-4, rtol=0)


def test_rows_sum_to_one() -> None:
    positions = torch.linspace(-2, 12, 50)
    for matrix in (cubic_matrix(10, positions), linear_matrix(10, positions), gaussian_matrix(10, 2.0)):
        # float32 rounding of a handful of weights
        torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix)), atol=1e-6, rtol=0)
