"""Scores of a classifier over all folds of a cross-validation, as files and a table."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_ext.atomic_files import write_text
from monai_ext.evaluation.classification_table import TITLES


def summarize_class_folds(summaries: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Result of a cross-validation.

    Args:
        summaries: fold to the content of its `summary.json`.

    Returns:
        JSON-able dict with `folds` (fold to its scores, `cases` and `calibration_error` before correction), `mean` and
        `std` (population) of every score over the folds that define it, and `sensitivity` (class to its mean over
        the folds that have cases of it). What no fold defines is null.
    """
    names = [name for name in TITLES if any(name in summary for summary in summaries.values())]
    folds = {
        str(fold): {
            "cases": summary["num_cases"],
            **{name: summary.get(name) for name in names},
            "calibration_error": summary["calibration"]["before"]["expected_error"],
        }
        for fold, summary in summaries.items()
    }
    columns = {name: [scores[name] for scores in folds.values()] for name in (*names, "calibration_error")}
    classes = dict.fromkeys(name for summary in summaries.values() for name in summary["classes"])
    recalls = {
        name: [summary["classes"][name]["sensitivity"] for summary in summaries.values() if name in summary["classes"]]
        for name in classes
    }
    return {
        "num_folds": len(folds),
        "folds": folds,
        "mean": {name: _mean(values) for name, values in columns.items()},
        "std": {name: _deviation(values) for name, values in columns.items()},
        "sensitivity": {name: _mean(values) for name, values in recalls.items()},
    }


def class_fold_table(result: Mapping[str, Any]) -> str:
    """Markdown table: a row per fold, one of mean and deviation; below it the sensitivity per class."""
    names = list(result["mean"])
    rows = [["fold", "cases", *(_title(name) for name in names)]]
    for fold, scores in result["folds"].items():
        rows.append([fold, str(scores["cases"]), *(_text(scores[name]) for name in names)])
    spread = [f"{_text(result['mean'][name])} ± {_text(result['std'][name])}" for name in names]
    rows.append(["mean ± std", "", *spread])
    recall = ", ".join(f"{name} {_text(value)}" for name, value in result["sensitivity"].items())
    return f"{_markdown(rows)}\n\nmean sensitivity: {recall}"


def write_class_fold_table(folder: Path, result: Mapping[str, Any]) -> None:
    """Write `cross_validation.json`, `.csv` (a row per fold) and `.md`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ("fold", "cases", *result["mean"]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({"fold": fold, **scores} for fold, scores in result["folds"].items())
    writer.writerows({"fold": name, "cases": "", **result[name]} for name in ("mean", "std"))
    content = json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False)
    write_text(folder / "cross_validation.json", content + "\n")
    write_text(folder / "cross_validation.csv", text.getvalue())
    write_text(folder / "cross_validation.md", class_fold_table(result) + "\n")


def _title(name: str) -> str:
    return TITLES.get(name, name.replace("_", " "))


def _defined(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _mean(values: Sequence[float | None]) -> float | None:
    defined = _defined(values)
    return statistics.fmean(defined) if defined else None


def _deviation(values: Sequence[float | None]) -> float | None:
    defined = _defined(values)
    return statistics.pstdev(defined) if defined else None


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join("-" * w for w in widths) + " |", *lines[1:]])
