"""Evaluation of a classifier as text for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from monai_ext.evaluation.classification_scores import PER_CLASS

TITLES = {
    "accuracy": "accuracy",
    "top5_accuracy": "top-5 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "decision_accuracy": "accuracy of decisions",
    "micro_f1": "micro F1",
    "macro_specificity": "macro specificity",
    "macro_precision": "macro precision",
    "macro_f1": "macro F1",
    "macro_roc_auc": "macro ROC AUC",
    "macro_average_precision": "macro average precision",
}


def report_table(summary: Mapping[str, Any], most: int = 30) -> str:
    """Text of an evaluation for the terminal: scores with their intervals, a row per class, calibration.

    Args:
        summary: of `write_classification_report`.
        most: classes listed; of more, those with the lowest sensitivity.
    """
    shown = [name for name in TITLES if name in summary]
    width = max(len(TITLES[name]) for name in shown)
    lines = []
    for name in shown:
        bounds = summary["intervals"].get(name)
        interval = f"  (95 %: {_text(bounds[0])} to {_text(bounds[1])})" if bounds else ""
        lines.append(f"{TITLES[name]:<{width}}  {_text(summary[name])}{interval}")
    classes = sorted(summary["classes"].items(), key=lambda item: _rank(item[1]["sensitivity"]))[:most]
    listed = {name for name, _ in classes}
    header = ("class", "cases", "sensitivity", "specificity", "precision", "F1", "ROC AUC", "AP")
    rows = [header]
    for name, entry in summary["classes"].items():
        if name in listed:
            rows.append((name, str(entry["cases"]), *(_text(entry[score]) for score in PER_CLASS)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines.append("")
    for row in rows:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells))
    if len(listed) < len(summary["classes"]):
        lines.append(f"({len(listed)} of {len(summary['classes'])} classes, lowest sensitivity; all in per_class.csv)")
    before, after = summary["calibration"]["before"], summary["calibration"]["after"]
    lines += [
        "",
        f"calibration error {_text(before['expected_error'])}, with temperature "
        f"{summary['calibration']['temperature']:.3f} {_text(after['expected_error'])}"
        + (" (cross-fitted)" if summary["calibration"]["cross_fitted"] else ""),
    ]
    return "\n".join(lines)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _rank(value: float | None) -> float:
    return math.inf if value is None else value
