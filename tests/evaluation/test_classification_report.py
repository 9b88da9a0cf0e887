"""Files and tables of a classifier's evaluation."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from monai_ext.errors import InputError
from monai_ext.evaluation.classification_report import write_classification_report
from monai_ext.evaluation.classification_scores import class_probabilities
from monai_ext.evaluation.classification_table import report_table

CLASSES = ("cat", "dog, big", "fish")


def cases(count: int = 60, seed: int = 0) -> tuple[list[str], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    logits = 2 * rng.normal(size=(count, 3)) + 2.5 * np.eye(3)[labels]
    return [f"val/{i:03d}.jpg" for i in range(count)], logits.astype(np.float32), labels


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_files_agree_with_each_other(tmp_path: Path) -> None:
    names, logits, labels = cases()
    summary = write_classification_report(tmp_path, names, logits, labels, CLASSES, about={"fold": 1}, bootstrap=200)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    right = logits.argmax(1) == labels
    assert summary["accuracy"] == pytest.approx(right.mean())
    assert summary["fold"] == 1
    low, high = summary["intervals"]["accuracy"]
    assert low < summary["accuracy"] < high
    predictions = rows(tmp_path / "predictions.csv")
    assert [row["name"] for row in predictions] == names
    assert [row["right"] == "1" for row in predictions] == right.tolist()
    assert [CLASSES.index(row["label"]) for row in predictions] == labels.tolist()
    given = np.array([[float(row[f"p_{name}"]) for name in CLASSES] for row in predictions])
    np.testing.assert_allclose(given, class_probabilities(logits, False), rtol=1e-5)
    matrix = np.array([[int(row[name]) for name in CLASSES] for row in rows(tmp_path / "confusion.csv")])
    assert matrix.tolist() == summary["confusion_matrix"]
    assert matrix.sum(1).tolist() == np.bincount(labels).tolist()
    for k, row in enumerate(rows(tmp_path / "per_class.csv")):
        entry = summary["classes"][row["class"]]
        assert float(row["sensitivity"]) == entry["sensitivity"] == pytest.approx(matrix[k, k] / matrix[k].sum())
        assert float(row["sensitivity_low"]) <= entry["sensitivity"] <= float(row["sensitivity_high"])
        assert int(row["predicted"]) == matrix[:, k].sum()
    assert Image.open(tmp_path / "confusion.png").mode == "RGB"
    errors = summary["confident_errors"]
    assert {error["case"] for error in errors} <= {name for name, r in zip(names, right, strict=True) if not r}
    assert [error["certainty"] for error in errors] == sorted((e["certainty"] for e in errors), reverse=True)


def test_given_temperature_is_only_scored(tmp_path: Path) -> None:
    names, logits, labels = cases(400)
    fitted = write_classification_report(tmp_path / "a", names, 3 * logits, labels, CLASSES, bootstrap=0)
    kept = write_classification_report(tmp_path / "b", names, 3 * logits, labels, CLASSES, temperature=3, bootstrap=0)
    assert fitted["calibration"]["cross_fitted"] is True
    assert kept["calibration"]["cross_fitted"] is False
    assert kept["calibration"]["temperature"] == 3
    for summary in (fitted, kept):
        before, after = summary["calibration"]["before"], summary["calibration"]["after"]
        assert after["expected_error"] < before["expected_error"]
        assert after["nll"] < before["nll"]
        assert after["brier"] < before["brier"]
        assert sum(after["bins"]["cases"]) == 400
    assert fitted["accuracy"] == kept["accuracy"]
    assert (tmp_path / "a/predictions.csv").read_text() == (tmp_path / "b/predictions.csv").read_text()


def test_undefined_scores_are_null(tmp_path: Path) -> None:
    """Strict JSON without NaN, empty cells, a dash in the table."""
    summary = write_classification_report(
        tmp_path, ["a", "b"], np.array([[2.0, 0, 0], [2.0, 0, 0]]), np.array([0, 0]), CLASSES, bootstrap=20
    )
    json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["macro_roc_auc"] is None
    assert summary["intervals"]["macro_roc_auc"] is None
    fish = summary["classes"]["fish"]
    assert (fish["sensitivity"], fish["specificity"], fish["intervals"]["sensitivity"]) == (None, 1, None)
    assert rows(tmp_path / "per_class.csv")[2]["sensitivity"] == ""
    assert report_table(summary)


def test_multi_label(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((80, 3)) < 0.3).astype(np.int64)
    logits = rng.normal(size=(80, 3)) + 4 * labels - 2
    names = [str(i) for i in range(80)]
    summary = write_classification_report(
        tmp_path, names, logits, labels, CLASSES, True, bootstrap=100, thresholds=[0.3, 0.5, 0.7]
    )
    decided = class_probabilities(logits, True) >= [0.3, 0.5, 0.7]
    assert summary["decision_accuracy"] == pytest.approx((decided == labels).mean())
    assert summary["accuracy"] == pytest.approx((decided == labels).all(1).mean())
    tp, fn, fp, tn = summary["confusion_matrix"][1]
    assert (tp + fn, tp + fn + fp + tn) == (labels[:, 1].sum(), 80)
    first = rows(tmp_path / "predictions.csv")[0]
    assert first["predicted"] == ";".join(name for name, d in zip(CLASSES, decided[0], strict=True) if d)
    assert "micro F1" in report_table(summary)
    assert all(error["certainty"] > 0.3 for error in summary["confident_errors"])


def test_many_classes_keep_the_summary_short(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    classes = [f"class {i}" for i in range(120)]
    labels = rng.integers(0, 120, 300)
    logits = rng.normal(size=(300, 120)) + 4 * np.eye(120)[labels]
    summary = write_classification_report(tmp_path, [str(i) for i in range(300)], logits, labels, classes, bootstrap=5)
    assert "confusion_matrix" not in summary
    assert len(rows(tmp_path / "confusion.csv")) == 120
    assert summary["top5_accuracy"] >= summary["accuracy"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": []}, "no cases.*Cure"),
        ({"logits": np.array([[np.nan, 0, 0], [1, 0, 0]])}, r"1 of 2 cases \(a\).*Cure"),
        ({"about": {"accuracy": 1}}, "accuracy would replace.*Cure"),
    ],
)
def test_person_errors(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arguments = {"names": ["a", "b"], "logits": np.zeros((2, 3)), "labels": np.array([0, 1]), "classes": CLASSES}
    with pytest.raises(InputError, match=message):
        write_classification_report(tmp_path, **(arguments | change))
    assert not list(tmp_path.iterdir())
