"""Scores of slices as files and tables: one evaluation, and all folds of a cross-validation."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_ext.atomic_files import write_text

SLICE_SCORES = ("soft_dice", "soft_dice_network", "dice_membrane", "dice_background")
STACK_SCORES = ("v_rand", "v_info")
TITLES = {
    "soft_dice": "soft Dice",
    "soft_dice_network": "soft Dice (network size)",
    "dice_membrane": "membrane Dice",
    "dice_background": "background Dice",
    "v_rand": "V_rand",
    "v_info": "V_info",
}

SliceScores = Mapping[str, Mapping[str, float]]


def slice_means(slices: SliceScores) -> dict[str, float]:
    """Mean of every score over slices."""
    return {name: statistics.fmean(scores[name] for scores in slices.values()) for name in SLICE_SCORES}


def write_slice_report(folder: Path, slices: SliceScores, summary: Mapping[str, Any]) -> None:
    """Write `metrics.json` and `metrics.csv` (a row per slice) and `summary.json`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ("slice", *SLICE_SCORES), lineterminator="\n")
    writer.writeheader()
    writer.writerows({"slice": name, **scores} for name, scores in slices.items())
    write_text(folder / "metrics.csv", text.getvalue())
    write_text(folder / "metrics.json", json.dumps(slices, indent=1) + "\n")
    write_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")


def score_table(summary: Mapping[str, Any]) -> str:
    """One line per score of an evaluation."""
    rows = [(TITLES[name], summary[name]) for name in (*SLICE_SCORES, *STACK_SCORES)]
    width = max(len(title) for title, _ in rows)
    return "\n".join(f"{title:<{width}}  {value:.4f}" for title, value in rows)


def summarize_slice_folds(summaries: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Result of a cross-validation.

    Args:
        summaries: fold to the content of its `summary.json`.

    Returns:
        JSON-able dict with `folds` (fold to its scores), `mean` and `std` (population) of every score over folds.
    """
    names = (*SLICE_SCORES, *STACK_SCORES)
    folds = {str(fold): {"slices": s["num_cases"], **{n: s[n] for n in names}} for fold, s in summaries.items()}
    columns = {name: [float(scores[name]) for scores in folds.values()] for name in names}
    return {
        "num_folds": len(folds),
        "folds": folds,
        "mean": {name: statistics.fmean(values) for name, values in columns.items()},
        "std": {name: statistics.pstdev(values) for name, values in columns.items()},
    }


def fold_table(result: Mapping[str, Any]) -> str:
    """Markdown table: a row per fold, one of mean and deviation."""
    names = (*SLICE_SCORES, *STACK_SCORES)
    rows = [["fold", "slices", *(TITLES[name] for name in names)]]
    for fold, scores in result["folds"].items():
        rows.append([fold, str(scores["slices"]), *(f"{scores[name]:.4f}" for name in names)])
    spread = [f"{result['mean'][name]:.4f} ± {result['std'][name]:.4f}" for name in names]
    rows.append(["mean ± std", "", *spread])
    return _markdown(rows)


def write_fold_table(folder: Path, result: Mapping[str, Any]) -> None:
    """Write `cross_validation.json`, `.csv` (a row per fold) and `.md`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ("fold", "slices", *SLICE_SCORES, *STACK_SCORES), lineterminator="\n")
    writer.writeheader()
    writer.writerows({"fold": fold, **scores} for fold, scores in result["folds"].items())
    writer.writerows({"fold": name, "slices": "", **result[name]} for name in ("mean", "std"))
    write_text(folder / "cross_validation.json", json.dumps(result, indent=1) + "\n")
    write_text(folder / "cross_validation.csv", text.getvalue())
    write_text(folder / "cross_validation.md", fold_table(result) + "\n")


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join("-" * w for w in widths) + " |", *lines[1:]])
