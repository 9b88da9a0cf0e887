"""Evaluations compared case by case."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from monai_ext.errors import InputError
from monai_ext.evaluation.paired_comparison import compare, format_comparison


def write(path: Path, dice: np.ndarray, classes: tuple[str, ...] = ("a", "b")) -> Path:
    path.mkdir()
    cases = {
        f"case_{i}": {n: {"dice": float(v)} for n, v in zip(classes, row, strict=True)} for i, row in enumerate(dice)
    }
    (path / "metrics.json").write_text(json.dumps(cases))
    return path


def test_consistent_gain_is_told_from_chance(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dice = rng.uniform(0.6, 0.9, (20, 2))
    better = dice + np.array([0.02, 0.0]) + rng.normal(0, 0.005, (20, 2))
    rows = {d.name: d for d in compare(write(tmp_path / "a", dice), write(tmp_path / "b", better))}
    assert list(rows) == ["a", "b", "mean"]
    assert rows["a"].p_value < 0.001
    assert rows["a"].low > 0.01
    assert rows["a"].better == 20
    assert rows["b"].p_value > 0.05
    assert rows["b"].low < 0 < rows["b"].high
    assert rows["mean"].mean_b - rows["mean"].mean_a == pytest.approx((better - dice).mean())


def test_p_value_of_a_known_example(tmp_path: Path) -> None:
    """Six differences of one sign: the exact two-sided p is 2 / 2^6."""
    a = np.linspace(0.5, 0.6, 6)[:, None]
    b = a + np.linspace(0.01, 0.06, 6)[:, None]
    row = compare(write(tmp_path / "a", a, ("x",)), write(tmp_path / "b", b, ("x",)))[0]
    assert row.p_value == pytest.approx(2 / 64)
    assert (row.better, row.worse) == (6, 0)


def test_equal_evaluations_do_not_differ(tmp_path: Path) -> None:
    dice = np.full((4, 2), 0.5)
    rows = compare(write(tmp_path / "a", dice), write(tmp_path / "b", dice))
    assert {d.p_value for d in rows} == {1.0}
    assert "| mean | 0.5000 | 0.5000 | +0.0000" in format_comparison(rows, ("A", "B"))


def test_other_cases_and_foreign_files_are_refused(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", np.ones((3, 2))), write(tmp_path / "b", np.ones((4, 2)))
    with pytest.raises(InputError, match="1 of 4 cases are in one of them only"):
        compare(a, b)
    with pytest.raises(InputError, match="not the metrics"):
        compare(a, tmp_path / "missing")
    with pytest.raises(InputError, match="other classes"):
        compare(a, write(tmp_path / "c", np.ones((3, 2)), ("a", "c")))
