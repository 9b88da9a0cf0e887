"""Scores of a classifier over all folds of a cross-validation, as files and a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_ext.evaluation.classification_table import TITLES
from monai_ext.evaluation.fold_scores import fold_scores_table, summarize_scores, write_fold_scores


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
    recalls = [
        {name: scores["sensitivity"] for name, scores in summary["classes"].items()} for summary in summaries.values()
    ]
    return summarize_scores(folds, (*names, "calibration_error"), "sensitivity", recalls)


def class_fold_table(result: Mapping[str, Any]) -> str:
    """Markdown table: a row per fold, one of mean and deviation; below it the sensitivity per class."""
    return fold_scores_table(result, TITLES, "sensitivity")


def write_class_fold_table(folder: Path, result: Mapping[str, Any]) -> None:
    """Write `cross_validation.json`, `.csv` (a row per fold) and `.md`."""
    write_fold_scores(folder, result, class_fold_table(result))
