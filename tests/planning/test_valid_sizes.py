"""Arithmetic of unpadded convolutions, against the stages written out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_ext.errors import InputError
from monai_ext.planning.valid_sizes import (
    border,
    check_input_size,
    input_size_for,
    smallest_input_size,
    valid_output_size,
)


def test_published_sizes() -> None:
    assert valid_output_size(572) == 388
    assert border() == 92
    assert smallest_input_size() == 188
    assert valid_output_size(188) == 4


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
def test_legal_sizes_are_regular(levels: int) -> None:
    """Every legal size is the smallest plus a multiple of 2^levels, and the border is the same for all."""
    smallest = smallest_input_size(levels)
    legal = [n for n in range(1, smallest + 5 * 2**levels) if valid_output_size(n, levels)]
    assert legal == list(range(smallest, smallest + 5 * 2**levels, 2**levels))
    assert {n - valid_output_size(n, levels) for n in legal} == {2 * border(levels)}


@given(st.integers(1, 2000), st.integers(1, 5))
def test_input_for_an_output_is_the_smallest(output: int, levels: int) -> None:
    size = input_size_for(output, levels)
    assert valid_output_size(size, levels) >= output
    before = size - 2**levels
    assert valid_output_size(before, levels) < output


def test_illegal_size_names_its_neighbours() -> None:
    check_input_size(572, 188)
    with pytest.raises(
        InputError, match=r"570 x 600 pixels.*188 plus a multiple of 16.*570: 556 or 572, 600: 588 or 604"
    ):
        check_input_size(570, 600)
    with pytest.raises(InputError, match="100: 188"):
        check_input_size(100, 188)
