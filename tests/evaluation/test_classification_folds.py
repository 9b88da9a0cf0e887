"""Scores over folds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_ext.evaluation.classification_folds import class_fold_table, summarize_class_folds, write_class_fold_table
from monai_ext.evaluation.classification_report import write_classification_report


def summary(folder: Path, predicted: list[int], labels: list[int]) -> dict[str, Any]:
    logits = 3 * np.eye(3)[predicted]
    names = [str(i) for i in range(len(labels))]
    return write_classification_report(folder, names, logits, np.array(labels), ["a", "b", "c"], bootstrap=0)


def test_folds_are_averaged_where_scores_are_defined(tmp_path: Path) -> None:
    """Class c has cases in the second fold only; ROC AUC is undefined in the first, where all cases are of class a."""
    result = summarize_class_folds(
        {0: summary(tmp_path, [0, 0, 1, 0], [0, 0, 0, 0]), 2: summary(tmp_path, [0, 1, 2], [0, 1, 2])}
    )
    assert result["num_folds"] == 2
    assert result["folds"]["2"]["cases"] == 3
    assert result["mean"]["accuracy"] == pytest.approx((0.75 + 1) / 2)
    assert result["std"]["accuracy"] == pytest.approx(0.125)
    assert result["folds"]["0"]["macro_roc_auc"] is None
    assert result["mean"]["macro_roc_auc"] == 1
    assert result["sensitivity"] == pytest.approx({"a": 0.875, "b": 1, "c": 1})
    table = class_fold_table(result)
    assert "0.8750 ± 0.1250" in table
    lines = table.splitlines()
    assert len({len(line) for line in lines if line.startswith("|")}) == 1
    assert lines[-1] == "mean sensitivity: a 0.8750, b 1.0000, c 1.0000"
    write_class_fold_table(tmp_path, result)
    assert json.loads((tmp_path / "cross_validation.json").read_text(), parse_constant=pytest.fail) == result
    rows = list(csv.DictReader((tmp_path / "cross_validation.csv").open()))
    assert [row["fold"] for row in rows] == ["0", "2", "mean", "std"]
    assert rows[0]["macro_roc_auc"] == ""
    assert float(rows[2]["calibration_error"]) == pytest.approx(result["mean"]["calibration_error"])
    assert (tmp_path / "cross_validation.md").read_text() == table + "\n"
