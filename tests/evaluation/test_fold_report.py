"""Folds are averaged as folds, and as cases."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_ext.errors import InputError
from monai_ext.evaluation.fold_report import markdown_table, summarize_folds, write_fold_report


def metrics(dice: float, hd95: float | None = 1.0) -> dict[str, Any]:
    return {
        "dice": dice,
        "surface_dice": dice / 2,
        "hd95_mm": hd95,
        "tp": 1,
        "fp": 0,
        "fn": 0,
        "reference_voxels": 1,
        "predicted_voxels": 1,
    }


FOLDS = {
    "0": {"a": {"x": metrics(0.9), "y": metrics(0.5)}, "b": {"x": metrics(0.7), "y": metrics(0.3)}},
    "1": {"c": {"x": metrics(0.2), "y": metrics(0.4, None)}},
}


def test_folds_of_unequal_size_weigh_differently_over_folds_and_over_cases() -> None:
    summary = summarize_folds(FOLDS)
    assert summary["folds"]["0"]["cases"] == 2
    assert summary["folds"]["0"]["x"]["dice"] == pytest.approx(0.8)
    assert summary["folds"]["1"]["mean"]["dice"] == pytest.approx(0.3)
    assert summary["over_folds"]["x"]["dice"]["mean"] == pytest.approx(np.mean([0.8, 0.2]))
    assert summary["over_folds"]["x"]["dice"]["std"] == pytest.approx(np.std([0.8, 0.2]))
    assert summary["over_folds"]["mean"]["dice"]["mean"] == pytest.approx(np.mean([0.6, 0.3]))
    assert summary["over_folds"]["y"]["hd95_mm"] == {"mean": 1.0, "std": 0.0}  # undefined in fold 1
    assert summary["pooled"]["num_cases"] == 3
    assert summary["pooled"]["classes"]["x"]["dice"]["mean"] == pytest.approx(np.mean([0.9, 0.7, 0.2]))
    assert summary["cases_in_several_folds"] == []


def test_a_case_of_several_folds_counts_once() -> None:
    summary = summarize_folds({**FOLDS, "2": {"a": {"x": metrics(0.1), "y": metrics(0.1)}}})
    assert summary["pooled"]["num_cases"] == 3
    assert summary["pooled"]["classes"]["x"]["dice"]["max"] == pytest.approx(0.9)
    assert summary["cases_in_several_folds"] == ["a"]


def test_files_agree(tmp_path: Path) -> None:
    summary = write_fold_report(tmp_path, FOLDS, {"models": {"0": "m"}}, note="a note")
    assert json.loads((tmp_path / "cross_validation.json").read_text()) == summary
    rows = list(csv.DictReader((tmp_path / "cross_validation.csv").open()))
    assert len(rows) == (2 + 1 + 1 + 1) * 3
    by_key = {(row["fold"], row["class"]): row for row in rows}
    assert float(by_key["mean over folds", "mean"]["dice"]) == pytest.approx(0.45)
    assert float(by_key["all cases", "x"]["dice"]) == pytest.approx(0.6)
    assert by_key["1", "y"]["hd95_mm"] == ""
    text = (tmp_path / "cross_validation.md").read_text()
    assert markdown_table(summary) in text
    assert text.endswith("a note\n")


def test_table_has_a_row_per_fold_and_two_more() -> None:
    lines = markdown_table(summarize_folds(FOLDS)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["fold", "cases", "x Dice", "y Dice", "mean Dice", "surface Dice", "HD95 mm"]
    assert cells[2] == ["0", "2", "0.8000", "0.4000", "0.6000", "0.3000", "1.00"]
    assert cells[4][:3] == ["mean ± std over folds", "", "0.5000 ± 0.3000"]
    assert cells[5][:3] == ["all cases", "3", "0.6000"]
    assert len({len(line) for line in lines}) == 1


def test_no_folds() -> None:
    with pytest.raises(InputError, match="no folds"):
        summarize_folds({})
