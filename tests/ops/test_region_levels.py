"""Levels of regions."""

from __future__ import annotations

import torch

from monai_ext.ops.roi_align import region_levels


def squares(*sides: float) -> torch.Tensor:
    return torch.tensor([[5.0, 7.0, 5.0 + side, 7.0 + side] for side in sides])


def test_levels_double_in_size() -> None:
    found = region_levels(squares(10, 111, 112, 223, 224, 447, 448, 3000), 4)
    assert found.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found.dtype == torch.int64


def test_area_counts_not_the_sides() -> None:
    assert region_levels(torch.tensor([[0.0, 0.0, 56.0, 896.0], [0.0, 0.0, 896.0, 56.0]]), 4).tolist() == [2, 2]


def test_other_canonical_size_and_levels() -> None:
    sizes = squares(13, 14, 28, 56, 112)
    assert region_levels(sizes, 4, 56).tolist() == [0, 0, 1, 2, 3]
    assert region_levels(sizes, 2, 56, 1).tolist() == [0, 0, 0, 1, 1]


def test_without_area_or_not_finite() -> None:
    odd = torch.tensor(
        [[3.0, 3.0, 3.0, 9.0], [999.0, 999.0, 3.0, 3.0], [torch.nan, 0.0, 1.0, 1.0], [0.0, 0.0, torch.inf, 1.0]]
    )
    assert region_levels(odd, 4).tolist() == [0, 0, 0, 3]
    assert region_levels(torch.zeros(0, 4), 4).shape == (0,)
