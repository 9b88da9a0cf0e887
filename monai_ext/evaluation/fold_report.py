"""From the metrics of every fold to one result: each fold, mean and deviation over folds, and all cases pooled."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_ext.atomic_files import write_text
from monai_ext.errors import InputError
from monai_ext.evaluation.segmentation_metrics import ClassMetrics
from monai_ext.evaluation.segmentation_report import SCORES, summarize

NAME = "cross_validation"
COLUMNS = ("fold", "cases", "class", *SCORES)
DIGITS = {"dice": 4, "surface_dice": 4, "hd95_mm": 2}

FoldCases = Mapping[str, Mapping[str, Mapping[str, ClassMetrics]]]


def summarize_folds(folds: FoldCases) -> dict[str, Any]:
    """Summary of a cross-validation.

    Args:
        folds: fold to case name to the result of `case_metrics`.

    Returns:
        JSON-able dict:

        - `folds`: per fold `cases` and, per class and for `mean` over classes, the mean of every score over its cases;
        - `over_folds`: per class and `mean`, and per score, `mean` and `std` (population) of the folds' values;
        - `pooled`: the `summarize` of all cases together, each counted once, whatever the sizes of the folds;
        - `cases_in_several_folds`: counted in their first fold.

    Raises:
        InputError: no folds, or a fold without cases.
    """
    if not folds:
        raise InputError("cross-validation: there are no folds. Cure: run cross_validation first")
    each = {fold: _scores(summarize(cases)) for fold, cases in folds.items()}
    rows = list(dict.fromkeys(row for scores in each.values() for row in scores))
    pooled: dict[str, Mapping[str, ClassMetrics]] = {}
    repeated: list[str] = []
    for cases in folds.values():
        repeated += [name for name in cases if name in pooled]
        pooled |= {name: metrics for name, metrics in cases.items() if name not in pooled}
    return {
        "num_folds": len(folds),
        "folds": {fold: {"cases": len(folds[fold]), **scores} for fold, scores in each.items()},
        "over_folds": {
            row: {score: _mean_and_std([scores[row][score] for scores in each.values()]) for score in SCORES}
            for row in rows
        },
        "pooled": summarize(pooled),
        "cases_in_several_folds": sorted(set(repeated)),
    }


def write_fold_report(
    folder: Path, folds: FoldCases, extras: Mapping[str, Any] | None = None, note: str = ""
) -> dict[str, Any]:
    """Write `cross_validation.json`, `.csv` (a row per fold and class) and `.md`; return the summary.

    Args:
        folder: where the files go.
        folds: fold to case name to the result of `case_metrics`.
        extras: further entries of the summary.
        note: a line below the Markdown table.

    Raises:
        InputError: as `summarize_folds`.
    """
    summary = {**summarize_folds(folds), **(extras or {})}
    folder = Path(folder)
    write_text(folder / f"{NAME}.json", json.dumps(summary, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    write_text(folder / f"{NAME}.csv", _csv(summary))
    write_text(folder / f"{NAME}.md", markdown_table(summary) + "\n" + (f"\n{note}\n" if note else ""))
    return summary


def markdown_table(summary: Mapping[str, Any]) -> str:
    """A row per fold, one of mean and deviation over folds, one of all cases pooled."""
    classes = [row for row in summary["over_folds"] if row != "mean"]
    header = ["fold", "cases", *(f"{name} Dice" for name in classes), "mean Dice", "surface Dice", "HD95 mm"]
    cells = [(row, "dice") for row in (*classes, "mean")] + [("mean", "surface_dice"), ("mean", "hd95_mm")]
    rows = [
        [str(fold), str(values["cases"]), *(_number(values[row][score], score) for row, score in cells)]
        for fold, values in summary["folds"].items()
    ]
    over, pooled = summary["over_folds"], summary["pooled"]
    spread = [_number(over[row][s]["mean"], s) + " ± " + _number(over[row][s]["std"], s) for row, s in cells]
    rows.append(["mean ± std over folds", "", *spread])
    all_scores = _scores(pooled)
    rows.append(["all cases", str(pooled["num_cases"]), *(_number(all_scores[row][s], s) for row, s in cells)])
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    first = "| " + " | ".join(cell.ljust(w) for cell, w in zip(header, widths, strict=True)) + " |"
    return "\n".join([first, "| " + " | ".join("-" * w for w in widths) + " |", *lines])


def _scores(summary: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Class name, and `mean`, to the mean of every score over cases."""
    scores = {name: {s: values[s]["mean"] for s in SCORES} for name, values in summary["classes"].items()}
    return {**scores, "mean": dict(summary["foreground_mean"])}


def _mean_and_std(values: list[float | None]) -> dict[str, float | None]:
    defined = [value for value in values if value is not None]
    if not defined:
        return {"mean": None, "std": None}
    return {"mean": statistics.fmean(defined), "std": statistics.pstdev(defined)}


def _csv(summary: Mapping[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for fold, values in summary["folds"].items():
        for row in summary["over_folds"]:
            writer.writerow({"fold": fold, "cases": values["cases"], "class": row, **values[row]})
    for statistic in ("mean", "std"):
        for row, scores in summary["over_folds"].items():
            values = {score: scores[score][statistic] for score in SCORES}
            writer.writerow({"fold": f"{statistic} over folds", "class": row, **values})
    for row, scores in _scores(summary["pooled"]).items():
        writer.writerow({"fold": "all cases", "cases": summary["pooled"]["num_cases"], "class": row, **scores})
    return text.getvalue()


def _number(value: float | None, score: str) -> str:
    return "-" if value is None else f"{value:.{DIGITS[score]}f}"
