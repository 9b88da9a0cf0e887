"""Tables of slices and folds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from monai_ext.evaluation.slice_report import (
    SLICE_SCORES,
    STACK_SCORES,
    fold_table,
    slice_means,
    summarize_slice_folds,
    write_fold_table,
    write_slice_report,
)


def scores(value: float) -> dict[str, float]:
    return {name: value + i / 100 for i, name in enumerate((*SLICE_SCORES, *STACK_SCORES))}


def test_slices_are_averaged_and_written(tmp_path: Path) -> None:
    slices = {"slice 00": scores(0.2), "slice 01": scores(0.4)}
    slices = {name: {k: v for k, v in s.items() if k in SLICE_SCORES} for name, s in slices.items()}
    means = slice_means(slices)
    assert means["soft_dice"] == pytest.approx(0.3)
    write_slice_report(tmp_path, slices, {"num_cases": 2, **means})
    assert json.loads((tmp_path / "metrics.json").read_text()) == slices
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [row["slice"] for row in rows] == ["slice 00", "slice 01"]
    assert float(rows[1]["soft_dice"]) == 0.4


def test_folds_are_averaged_with_their_spread(tmp_path: Path) -> None:
    result = summarize_slice_folds({0: {"num_cases": 6, **scores(0.5)}, 3: {"num_cases": 5, **scores(0.7)}})
    assert result["folds"]["3"]["slices"] == 5
    assert result["mean"]["soft_dice"] == pytest.approx(0.6)
    assert result["std"]["v_info"] == pytest.approx(0.1)
    table = fold_table(result)
    assert "0.6000 ± 0.1000" in table
    assert len({len(line) for line in table.splitlines()}) == 1
    write_fold_table(tmp_path, result)
    rows = list(csv.DictReader((tmp_path / "cross_validation.csv").open()))
    assert [row["fold"] for row in rows] == ["0", "3", "mean", "std"]
    assert (tmp_path / "cross_validation.md").read_text() == table + "\n"
