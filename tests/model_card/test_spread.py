"""Spread of scores over cases."""

from __future__ import annotations

import math

import pytest

from monai_ext.model_card.spread import spread, spread_table


def test_spread_of_what_is_defined() -> None:
    found = spread([1.0, 3, None, math.nan, True, 8.0])
    assert found["cases"] == 3
    assert (found["mean"], found["median"], found["least"], found["largest"]) == (4.0, 3.0, 1.0, 8.0)
    assert found["standard deviation"] == pytest.approx(math.sqrt(26 / 3))
    assert spread([None, "x"]) == {"cases": 0}


def test_scores_that_no_case_has_get_no_row() -> None:
    cases = {"a": {"dice": 0.5, "own": 1}, "b": {"dice": None}}
    text = spread_table(cases, ("dice", "other"), {"dice": "Dice"})
    assert text.count("\n") == 2
    assert text.endswith("| Dice | 0.5000 | 0.0000 | 0.5000 | 0.5000 | 0.5000 | 1 |")
    assert spread_table(cases, ("other",), {}) == ""
