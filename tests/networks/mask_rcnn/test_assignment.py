"""Levels of regions."""

from __future__ import annotations

import pytest
import torch

from monai_ext.networks.mask_rcnn.assignment import assign_levels


def squares(*sides: float) -> torch.Tensor:
    return torch.tensor([[5.0, 7.0, 5.0 + side, 7.0 + side] for side in sides])


def test_levels_double_in_size() -> None:
    found = assign_levels(squares(10, 111, 112, 223, 224, 447, 448, 3000))
    assert found.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found.dtype == torch.int64


def test_area_counts_not_the_sides() -> None:
    assert assign_levels(torch.tensor([[0.0, 0.0, 56.0, 896.0], [0.0, 0.0, 896.0, 56.0]])).tolist() == [2, 2]


def test_other_canonical_size_and_levels() -> None:
    sizes = squares(13, 14, 28, 56, 112)
    assert assign_levels(sizes, canonical_size=56).tolist() == [0, 0, 1, 2, 3]
    assert assign_levels(sizes, 3, 4, canonical_size=56, canonical_level=4).tolist() == [0, 0, 0, 1, 1]


def test_without_area_or_not_finite() -> None:
    odd = torch.tensor(
        [[3.0, 3.0, 3.0, 9.0], [9.0, 9.0, 3.0, 3.0], [torch.nan, 0.0, 1.0, 1.0], [0.0, 0.0, torch.inf, 1.0]]
    )
    assert assign_levels(odd).tolist() == [0, 0, 0, 3]
    assert assign_levels(torch.zeros(0, 4)).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.zeros(2, 5),), r"\[R, 4\]"),
        ((torch.zeros(2, 4), 5, 2), "above the last"),
        ((torch.zeros(2, 4), 2, 5, 0.0), "positive"),
    ],
)
def test_wrong_arguments(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        assign_levels(*arguments)
