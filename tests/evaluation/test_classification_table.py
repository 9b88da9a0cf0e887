"""Table of a classifier's evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monai_ext.evaluation.classification_report import write_classification_report
from monai_ext.evaluation.classification_table import report_table

CLASSES = ("cat", "dog, big", "fish")


def cases(count: int = 60, seed: int = 0) -> tuple[list[str], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    logits = 2 * rng.normal(size=(count, 3)) + 2.5 * np.eye(3)[labels]
    return [f"val/{i:03d}.jpg" for i in range(count)], logits.astype(np.float32), labels


def test_table_for_the_terminal(tmp_path: Path) -> None:
    names, logits, labels = cases()
    summary = write_classification_report(tmp_path, names, logits, labels, CLASSES, bootstrap=100)
    table = report_table(summary)
    assert f"{summary['accuracy']:.4f}  (95 %: {summary['intervals']['accuracy'][0]:.4f} to" in table
    assert [line.split("  ")[0] for line in table.splitlines()].count("dog, big") == 1
    assert "(cross-fitted)" in table
    worst = min(summary["classes"], key=lambda name: summary["classes"][name]["sensitivity"])
    short = report_table(summary, most=1)
    assert worst in short
    assert "(1 of 3 classes, lowest sensitivity" in short
    assert sum(line.startswith(CLASSES) for line in short.splitlines()) == 1
    plain = write_classification_report(tmp_path, names, logits, labels, CLASSES, bootstrap=0)
    assert plain["intervals"] == {}
    assert "95 %" not in report_table(plain)
