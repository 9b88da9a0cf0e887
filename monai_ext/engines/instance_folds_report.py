"""Result of all folds of an instance segmentation bundle."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_ext.engines.fold_jobs import FoldConfig, FoldJob
from monai_ext.evaluation.fold_scores import fold_scores_table, summarize_scores, write_fold_scores

logger = logging.getLogger(__name__)
TITLES = {
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP50",
    "mask_ap75": "mask AP75",
    "box_ap": "box AP",
    "box_ap50": "box AP50",
    "nuclei_ap": "label map AP",
    "nuclei_ap50": "label map AP50",
    "nuclei_f1_50": "F1",
    "nuclei_pq": "PQ",
    "nuclei_aji": "AJI",
}


def summarize_instance_folds(summaries: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Result of a cross-validation.

    Args:
        summaries: fold to the content of its `summary.json`.

    Returns:
        As `summarize_scores`, with `mask_ap50` per class.
    """
    folds = {
        str(fold): {"cases": summary["num_images"], **{name: summary.get(name) for name in TITLES}}
        for fold, summary in summaries.items()
    }
    per_class = [
        {name: scores["mask_ap50"] for name, scores in summary["classes"].items()} for summary in summaries.values()
    ]
    return summarize_scores(folds, tuple(TITLES), "class_mask_ap50", per_class)


def report_instance_folds(folder: Path, jobs: Sequence[FoldJob], config: FoldConfig) -> dict[str, Any]:
    """Average the evaluations of finished folds, write and print the table; for `cross_validate`."""
    result = summarize_instance_folds({job.fold: job.summary() for job in jobs})
    table = fold_scores_table(result, {**TITLES, "class_mask_ap50": "mask AP50 by class"}, "class_mask_ap50")
    write_fold_scores(folder, result, table)
    print(table)
    print(f"result: {folder.resolve() / 'cross_validation.json'}, .csv, .md")
    mean = result["mean"]["mask_ap50"]
    logger.info("mask AP50 %s", "undefined: no fold has annotated objects" if mean is None else f"{mean:.4f}")
    return result
