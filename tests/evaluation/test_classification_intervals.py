"""Intervals of a classifier's scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monai_ext.evaluation.bootstrap import wilson_interval
from monai_ext.evaluation.classification_report import write_classification_report

CLASSES = ("cat", "dog, big", "fish")


def cases(count: int = 60, seed: int = 0) -> tuple[list[str], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    logits = 2 * rng.normal(size=(count, 3)) + 2.5 * np.eye(3)[labels]
    return [f"val/{i:03d}.jpg" for i in range(count)], logits.astype(np.float32), labels


def test_groups_widen_the_intervals(tmp_path: Path) -> None:
    names, logits, labels = (np.repeat(values, 10, axis=0) for values in cases(40))
    groups = [f"patient {i // 10}" for i in range(400)]
    loose = write_classification_report(tmp_path, list(names), logits, labels, CLASSES, bootstrap=300)
    tight = write_classification_report(tmp_path, list(names), logits, labels, CLASSES, groups=groups, bootstrap=300)
    assert (loose["num_groups"], tight["num_groups"]) == (None, 40)
    widths = [s["intervals"]["accuracy"][1] - s["intervals"]["accuracy"][0] for s in (loose, tight)]
    assert widths[1] > 2 * widths[0]  # in the mean root of 10


def test_no_error_is_no_certainty(tmp_path: Path) -> None:
    """Nothing but right cases: the bootstrap would give one point, the interval is Wilson's, of cases or groups."""
    labels = np.arange(30) % 3
    logits = 4.0 * np.eye(3)[labels]
    names = [str(i) for i in range(30)]
    summary = write_classification_report(tmp_path, names, logits, labels, CLASSES, bootstrap=50)
    assert summary["accuracy"] == 1
    assert summary["intervals"]["accuracy"] == pytest.approx(wilson_interval(30, 30))
    assert summary["classes"]["cat"]["intervals"]["sensitivity"] == pytest.approx(wilson_interval(10, 10))
    assert summary["classes"]["cat"]["intervals"]["specificity"] == pytest.approx(wilson_interval(20, 20))
    assert summary["intervals"]["macro_roc_auc"] is None
    assert summary["classes"]["cat"]["intervals"]["f1"] is None
    assert summary["confident_errors"] == []
    pairs = [str(i // 2) for i in range(30)]
    grouped = write_classification_report(tmp_path, names, logits, labels, CLASSES, groups=pairs, bootstrap=50)
    assert grouped["intervals"]["accuracy"] == pytest.approx(wilson_interval(15, 15))
