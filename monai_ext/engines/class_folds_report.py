"""Result of all folds of a classification bundle."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_ext.engines.fold_jobs import FoldConfig, FoldJob
from monai_ext.evaluation.classification_folds import class_fold_table, summarize_class_folds, write_class_fold_table

logger = logging.getLogger(__name__)


def report_class_folds(folder: Path, jobs: Sequence[FoldJob], config: FoldConfig) -> dict[str, Any]:
    """Average the evaluations of finished folds, write and print the table; for `cross_validate`."""
    result = summarize_class_folds({job.fold: job.summary() for job in jobs})
    write_class_fold_table(folder, result)
    print(class_fold_table(result))
    print(f"result: {folder.resolve() / 'cross_validation.json'}, .csv, .md")
    logger.info("accuracy %.4f", result["mean"]["accuracy"])
    return result
