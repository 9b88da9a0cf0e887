"""Matrices along axes against scipy and torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from monai_ext.transforms.separable import (
    apply_along_axis,
    cubic_matrix,
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


@pytest.mark.parametrize(("size", "new"), [(5, 9), (9, 5), (4, 4), (1, 6)])
def test_linear_and_nearest_are_those_of_torch(size: int, new: int) -> None:
    line = torch.randn(1, 1, size, generator=torch.Generator().manual_seed(0))
    linear = apply_along_axis(line, linear_matrix(size, resize_positions(size, new)), -1)
    # torch computes its positions in float32
    torch.testing.assert_close(linear, F.interpolate(line, new, mode="linear"), atol=1e-5, rtol=0)
    assert torch.equal(line[..., nearest_index(size, new)], F.interpolate(line, new, mode="nearest-exact"))


def test_nearest_of_two_equally_near_is_the_right_one() -> None:
    # positions are 0.5 and 2.5; in the second line 0.5, 2.5 and 4.5 for every third one, with a ratio that rounds
    assert nearest_index(4, 2).tolist() == [1, 3]
    assert nearest_index(6, 9).tolist() == [0, 1, 1, 2, 3, 3, 4, 5, 5]


def test_cubic_reproduces_parabolas_inside() -> None:
    positions = torch.tensor([2.0, 2.25, 3.5, 4.9])
    values = torch.arange(9.0) ** 2
    # Keys with a = -1/2 is exact for second-degree polynomials; float32 of values up to 64
    torch.testing.assert_close(cubic_matrix(9, positions) @ values, positions**2, atol=1e-4, rtol=0)


def test_rows_sum_to_one() -> None:
    positions = torch.linspace(-2, 12, 50)
    for matrix in (cubic_matrix(10, positions), linear_matrix(10, positions)):
        # float32 rounding of a handful of weights
        torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix)), atol=1e-6, rtol=0)
