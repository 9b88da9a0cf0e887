"""Result of all folds of a segmentation bundle: averaged, and their post-processing decided together."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.datasets.image_files import read_label
from monai_ext.engines.fold_jobs import FoldConfig, FoldJob
from monai_ext.evaluation.fold_report import markdown_table, write_fold_report
from monai_ext.evaluation.postprocessing import POSTPROCESSING_FILE, decide_postprocessing
from monai_ext.file_digest import file_sha256
from monai_ext.planning.plan import Plan

logger = logging.getLogger(__name__)


def label_files(config: FoldConfig) -> dict[str, Path | None]:
    """Name to label file of all cases of the running bundle's dataset; opened by all ranks together."""
    return {case.name: case.label for case in config.value("source", 0).dataset.training}


def report_segmentations(folder: Path, jobs: Sequence[FoldJob], references: dict[str, Path | None]) -> dict[str, Any]:
    """Average finished folds, decide their post-processing, write and print both.

    Post-processing is decided on the held-out predictions of all folds together, and stored beside the result and
    beside the model of every fold.

    Args:
        folder: for the result.
        jobs: of all folds, finished.
        references: case name to label file.

    Raises:
        InputError: a file of a fold is damaged.
    """
    plan = Plan.load(jobs[0].folder / "plan.json")
    decided = decide_postprocessing(_label_maps(jobs, references), plan.foreground_classes, plan.ignore_label)
    summary = write_fold_report(
        folder,
        {str(job.fold): job.metrics() for job in jobs},
        {
            "models": {
                str(job.fold): {"path": str(job.model.resolve()), "sha256": file_sha256(job.model)} for job in jobs
            },
            "postprocessing": {
                "keep_largest": [list(values) for values in decided.keep_largest],
                "note": "decided on the held-out cases of all folds; the scores above are without it",
            },
        },
        note=decided.describe(plan.foreground_classes),
    )
    for target in (folder, *(job.folder for job in jobs)):
        decided.save(target / POSTPROCESSING_FILE)
    print(markdown_table(summary))
    print(decided.describe(plan.foreground_classes))
    repeated = summary["cases_in_several_folds"]
    if repeated:
        logger.warning("%d cases are validated in several folds; all cases pooled count the first", len(repeated))
    print(f"result: {folder.resolve() / 'cross_validation.json'}, .csv, .md; {POSTPROCESSING_FILE} beside the models")
    pooled = summary["pooled"]
    logger.info("%d folds, %d cases", len(jobs), pooled["num_cases"])
    logger.info("mean foreground Dice %.3f", pooled["foreground_mean"]["dice"])
    return summary


def _label_maps(
    jobs: Sequence[FoldJob], references: dict[str, Path | None]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    done: set[str] = set()
    for job in jobs:
        for case in job.cases:
            reference = references.get(case)
            if case in done or reference is None:
                continue
            done.add(case)
            yield case, read_label(job.label_map(case))[0], read_label(reference)[0]
