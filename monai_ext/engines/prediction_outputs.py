"""What happens to each predicted case: back to original geometry, then written, measured, or both."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys

from monai_ext.datasets.image_files import write_label_map, write_probabilities
from monai_ext.datasets.segmentation_dataset import Case
from monai_ext.errors import InputError
from monai_ext.evaluation.segmentation_metrics import case_metrics
from monai_ext.evaluation.segmentation_report import format_table, write_report
from monai_ext.planning.plan import Plan
from monai_ext.preprocessing.case_preprocessing import restore_labels, restore_probabilities, restore_stored_labels

logger = logging.getLogger(__name__)


class PredictionOutputs:
    """Takes the prediction of every case back to its raw grid and writes `<case>.nii.gz` and/or its metrics.

    Args:
        plan: of the model.
        folder: for label maps, or for the report.
        write: write label maps (affine, shape and orientation of the input).
        probabilities: also write `<case>_probabilities.nii.gz`, 4D float32, classes last.
        measure: compare with the reference and write `metrics.json`, `metrics.csv` and `summary.json`.
        tolerance_mm: of the surface Dice.
        about: entries for the summary (model, fold, keys).
    """

    def __init__(
        self,
        plan: Plan,
        folder: str | Path,
        write: bool = True,
        probabilities: bool = False,
        measure: bool = False,
        tolerance_mm: float = 1.0,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.plan = plan
        self.folder = Path(folder)
        self.write = write
        self.probabilities = probabilities
        self.measure = measure
        self.tolerance_mm = tolerance_mm
        self.about = dict(about or {})
        self.metrics: dict[str, Any] = {}
        self.written: list[Path] = []
        self.failed: list[str] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._case)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def keep_existing(self, cases: Sequence[Case], overwrite: bool = False) -> None:
        """Refuse to start if a prediction would replace a file.

        Raises:
            InputError: lists the files that exist, unless `overwrite`; in any case if one of them is an input.
        """
        endings = [".nii.gz", "_probabilities.nii.gz"] if self.probabilities else [".nii.gz"]
        targets = [self.folder / f"{case.name}{ending}" for case in cases for ending in endings]
        inputs = {image.resolve() for case in cases for image in case.images}
        existing = [path for path in targets if path.exists()]
        if any(path.resolve() in inputs for path in existing):
            raise InputError(
                f"--output_dir {self.folder}: holds the input itself, which predictions would replace. "
                "Cure: another --output_dir"
            )
        if existing and not overwrite:
            listed = "\n".join(f"  - {path}" for path in existing[:10])
            raise InputError(
                f"{len(existing)} predictions are already in {self.folder}:\n{listed}\n"
                "Cure: another --output_dir, or --overwrite True"
            )

    def _case(self, engine: Any) -> None:
        batch = engine.state.batch
        if "error" in batch:
            self.failed.append(batch["error"])
            return
        case, geometry, placement = batch["case"], batch["geometry"], batch["placement"]
        predicted: torch.Tensor = engine.state.output[CommonKeys.PRED][0]
        if predicted.shape[0] == 1:
            labels = restore_stored_labels(predicted[0].cpu().numpy(), placement, geometry, self.plan)
        else:
            labels = restore_labels(predicted, placement, geometry, self.plan)
        if self.write:
            path = self.folder / f"{case.name}.nii.gz"
            write_label_map(path, labels, geometry)
            self.written.append(path)
        if self.probabilities:
            path = self.folder / f"{case.name}_probabilities.nii.gz"
            write_probabilities(path, restore_probabilities(predicted, placement, geometry, self.plan), geometry)
            self.written.append(path)
        if self.measure:
            self.metrics[case.name] = case_metrics(
                labels,
                batch["reference"],
                geometry.spacing,
                self.plan.foreground_classes,
                tolerance_mm=self.tolerance_mm,
                ignore_label=self.plan.ignore_label,
            )
        done = engine.state.iteration
        logger.info("%s (%d of %d)", case.name, done, engine.state.epoch_length)

    def _finish(self, _: Any) -> None:
        if self.measure and self.metrics:
            summary = write_report(self.folder, self.metrics, self.about)
            print(format_table(summary))
            print(f"metrics: {self.folder.resolve() / 'metrics.json'} and metrics.csv, summary.json")
        if self.written:
            print(f"{len(self.written)} files written to {self.folder.resolve()}")
        if self.failed:
            listed = "\n".join(f"  - {line}" for line in self.failed)
            raise InputError(f"{len(self.failed)} cases could not be read, all others are done:\n{listed}")
