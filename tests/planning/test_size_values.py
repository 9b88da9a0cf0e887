"""Sizes as they are typed."""

from __future__ import annotations

import pytest

from monai_ext.errors import InputError
from monai_ext.planning.size_values import level_sizes, not_negative, pair, ratios


def test_one_number_or_two() -> None:
    assert pair([512]) == (512, 512)
    assert pair([832, 1344]) == (832, 1344)
    with pytest.raises(InputError, match="must be one or two numbers"):
        pair([1, 2, 3])


def test_sizes_of_levels() -> None:
    assert level_sizes([[12, 16], 24, [32.5], [40], [50]]) == ((12.0, 16.0), (24.0,), (32.5,), (40.0,), (50.0,))
    for wrong in ("large", 7, [["a"]] * 5, [[8], [16]], [[8], [16], [], [32], [64]], [[8], [16], [-1], [32], [64]]):
        with pytest.raises(InputError, match="are not sizes above 0 for 5 levels"):
            level_sizes(wrong)


def test_ratios_and_numbers() -> None:
    assert ratios([1, 2]) == (1.0, 2.0)
    assert not_negative("scale", 2) == 2.0
    for wrong in ([], [0], "1", ["a"]):
        with pytest.raises(InputError, match=r"--aspect_ratios .*: must be numbers above 0"):
            ratios(wrong)  # type: ignore[arg-type]
    for number in (-1, "x", True, float("nan")):
        with pytest.raises(InputError, match=r"--scale .*: must be a number above 0"):
            not_negative("scale", number)  # type: ignore[arg-type]
