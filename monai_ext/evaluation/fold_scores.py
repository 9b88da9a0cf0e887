"""Scores over all folds of a cross-validation, whatever the task: mean, deviation, files and a table."""

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


def summarize_scores(
    folds: Mapping[str, Mapping[str, Any]],
    names: Sequence[str],
    class_score: str,
    per_class: Sequence[Mapping[str, float | None]],
) -> dict[str, Any]:
    """Result of a cross-validation.

    Args:
        folds: fold to `cases` and scores; None where a fold does not define one.
        names: scores of which mean and deviation are wanted.
        class_score: name of the score per class.
        per_class: class to that score, for each fold that has it.

    Returns:
        JSON-able dict with `folds`, `mean` and `std` (population) of every score over the folds that define it, and
        the mean of `class_score` by class. What no fold defines is null.
    """
    columns = {name: [scores[name] for scores in folds.values()] for name in names}
    classes = dict.fromkeys(name for scores in per_class for name in scores)
    return {
        "num_folds": len(folds),
        "folds": dict(folds),
        "mean": {name: _mean(values) for name, values in columns.items()},
        "std": {name: _deviation(values) for name, values in columns.items()},
        class_score: {name: _mean([scores[name] for scores in per_class if name in scores]) for name in classes},
    }


def fold_scores_table(result: Mapping[str, Any], titles: Mapping[str, str], class_score: str) -> str:
    """Markdown table: a row per fold, one of mean and deviation; below it the score per class."""
    names = list(result["mean"])
    rows = [["fold", "cases", *(titles.get(name, name.replace("_", " ")) for name in names)]]
    for fold, scores in result["folds"].items():
        rows.append([fold, str(scores["cases"]), *(_text(scores[name]) for name in names)])
    spread = [f"{_text(result['mean'][name])} ± {_text(result['std'][name])}" for name in names]
    rows.append(["mean ± std", "", *spread])
    classes = ", ".join(f"{name} {_text(value)}" for name, value in result[class_score].items())
    return f"{_markdown(rows)}\n\nmean {titles.get(class_score, class_score.replace('_', ' '))}: {classes}"


def write_fold_scores(folder: Path, result: Mapping[str, Any], table: str) -> None:
    """Write `cross_validation.json`, `.csv` (a row per fold) and the table as `.md`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ("fold", "cases", *result["mean"]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({"fold": fold, **scores} for fold, scores in result["folds"].items())
    writer.writerows({"fold": name, "cases": "", **result[name]} for name in ("mean", "std"))
    content = json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False)
    write_text(folder / "cross_validation.json", content + "\n")
    write_text(folder / "cross_validation.csv", text.getvalue())
    write_text(folder / "cross_validation.md", table + "\n")


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
