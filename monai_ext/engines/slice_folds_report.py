"""Result of all folds of an EM bundle."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_ext.engines.fold_jobs import FoldConfig, FoldJob
from monai_ext.evaluation.slice_report import fold_table, summarize_slice_folds, write_fold_table

logger = logging.getLogger(__name__)


def report_slice_folds(folder: Path, jobs: Sequence[FoldJob], config: FoldConfig) -> dict[str, Any]:
    """Average the evaluations of finished folds, write and print the table; for `cross_validate`."""
    result = summarize_slice_folds({job.fold: job.summary() for job in jobs})
    write_fold_table(folder, result)
    print(fold_table(result))
    validated = [name for job in jobs for name in job.cases]
    repeated = len(validated) - len(set(validated))
    if repeated:
        logger.warning("%d slices are validated in several folds (fold_rule legacy)", repeated)
    print(f"result: {folder.resolve() / 'cross_validation.json'}, .csv, .md")
    logger.info("mean foreground Dice %.3f", result["mean"]["dice_membrane"])
    return result
