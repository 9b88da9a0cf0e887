"""What happens to each predicted case: back to original geometry, then written, measured, or both."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys

from monai_ext.atomic_files import replacing
from monai_ext.datasets.geometry import Geometry
from monai_ext.datasets.image_files import write_label_map, write_probabilities
from monai_ext.datasets.png_labels import is_picture, write_png_labels
from monai_ext.datasets.segmentation_dataset import Case
from monai_ext.engines import process_group
from monai_ext.engines.case_share import collect, has_share
from monai_ext.engines.overlapped_io import WriteBehind
from monai_ext.engines.segmentation_files import PER_CLASS, TOGETHER, SegmentationFiles
from monai_ext.engines.shared_completion import when_all_are_done
from monai_ext.errors import InputError
from monai_ext.evaluation.postprocessing import POSTPROCESSING_FILE, Postprocessing, PostprocessingTrial
from monai_ext.evaluation.segmentation_metrics import case_metrics
from monai_ext.evaluation.segmentation_report import format_table, write_report
from monai_ext.file_digest import file_sha256
from monai_ext.planning.plan import Plan
from monai_ext.preprocessing.case_preprocessing import restore_labels, restore_probabilities, restore_stored_labels

logger = logging.getLogger(__name__)
FORMATS = ("nii", "npy", TOGETHER, PER_CLASS)
DECIDED_NOTE = (
    "decided on these very cases: the Dice after post-processing is a little too good as an estimate for new cases"
)


def postprocessing_beside(ckpt_path: str, wanted: bool) -> Postprocessing | None:
    """Post-processing that was decided for a model, read from `postprocessing.json` beside it.

    Args:
        ckpt_path: the model file.
        wanted: False gives None whatever lies there.

    Raises:
        InputError: the file is damaged.
    """
    path = Path(decision_beside(ckpt_path))
    return Postprocessing.load(path) if wanted and path.is_file() else None


def decision_beside(ckpt_path: str) -> str:
    """Path of `postprocessing.json` beside a model."""
    return str(Path(ckpt_path).parent / POSTPROCESSING_FILE)


@dataclass
class _Outcome:
    """What became of one case; small, for it travels between processes."""

    name: str
    error: str = ""
    written: list[Path] = field(default_factory=list)
    metrics: Any = None
    trial: PostprocessingTrial | None = None


class PredictionOutputs:
    """Takes the prediction of every case back to its raw grid and writes its label map and/or its metrics.

    Label maps are `<case>.nii.gz`; those of 2D pictures (PNG, TIFF) are `<case>.png`.

    Of several processes each writes the label maps of its own cases. At the end the first reports on all of them, in
    the order of the cases. `metrics`, `written` and `failed` are of all cases then, on every process.

    Args:
        plan: of the model.
        folder: for label maps, or for the report.
        write: write predictions in the formats of `pred_format`.
        probabilities: also write `<case>_probabilities.nii.gz`, 4D float32, classes last.
        measure: compare with the reference and write `metrics.json`, `metrics.csv` and `summary.json`.
        tolerance_mm: of the surface Dice.
        about: entries for the summary (model, fold, keys). If `model` is a file, its SHA-256 is added.
        postprocessing: applied to label maps before they are written and measured; not to probabilities.
        decide: decide on the measured cases what post-processing helps. Files and metrics stay without it; the summary
            gets the Dice before and after.
        decision_file: where the decision is written, beside the model as a rule.
        pred_format: `nii` label maps, `npy` probabilities `[K, D, H, W]` float32 in canonical axes (z, y, x) as
            `<case>.npy` (they need logits from the evaluator), `dicom` segmentations `<case>.dcm` that refer to the
            series the case was read from, `dicom_per_class` one file for each class with all slices, which ITK reads as
            a volume, `<case>_class<value>.dcm`; or several, as `nii+npy`.
        segment_codes_file: coded terms of the classes for DICOM, see `segment_codes`; empty for none.
        overlapped: work on a case in a thread of its own while the network predicts the next one.
        num_cases: of all processes together, dealt out by `CaseShare`; 0: this process has all of them.

    Raises:
        InputError: unknown format; post-processing or coded terms of classes that the plan lacks.
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
        postprocessing: Postprocessing | None = None,
        decide: bool = False,
        decision_file: str | Path = "",
        pred_format: str = "nii",
        overlapped: bool = False,
        num_cases: int = 0,
        segment_codes_file: str | Path = "",
    ) -> None:
        self.plan = plan
        self.folder = Path(folder)
        self.write = write
        self.probabilities = probabilities
        self.measure = measure
        self.tolerance_mm = tolerance_mm
        self.about = dict(about or {})
        self.postprocessing = postprocessing
        self.decision_file = Path(decision_file) if str(decision_file) else None
        self.formats = _formats(pred_format)
        self._segmentations = SegmentationFiles(self.formats, plan.foreground_classes, segment_codes_file)
        self.decide = decide
        self.num_cases = num_cases
        self.metrics: dict[str, Any] = {}
        self.written: list[Path] = []
        self.failed: list[str] = []
        self._behind = WriteBehind(overlapped)
        self._outcomes: list[_Outcome] = []
        if decide and postprocessing is not None:
            raise ValueError("decide needs predictions as they are, give no postprocessing with it")
        kept = {value for values in postprocessing.keep_largest for value in values} if postprocessing else set()
        unknown = sorted(kept - set(plan.foreground_classes.values()))
        if unknown:
            raise InputError(
                f"{POSTPROCESSING_FILE}: names the class values {unknown}, the plan has {plan.foreground_classes}. "
                "Cure: use the file of this model, or --postprocess False"
            )

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._case)
        when_all_are_done(engine, self._finish)

    @process_group.one_error
    def keep_existing(self, cases: Sequence[Case], overwrite: bool = False) -> None:
        """Refuse to start if a prediction would replace a file, or cannot be written as what was asked.

        Raises:
            InputError: lists the files that exist, unless `overwrite`; in any case if one of them is an input; DICOM is
                asked for and a case is no series that a segmentation can refer to.
        """
        if self.write:
            self._segmentations.check(cases, self.folder)
        targets = [self.folder / f"{case.name}{ending}" for case in cases for ending in self._endings(case)]
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

    def _endings(self, case: Case) -> list[str]:
        """Endings of all files that the case may get; whether a TIFF is a picture or a volume shows when it is read."""
        endings = [".png", ".nii.gz"] if is_picture(case.images[0]) else [".nii.gz"]
        return (
            (endings if self.write and "nii" in self.formats else [])
            + ([".npy"] if self.write and "npy" in self.formats else [])
            + (self._segmentations.endings if self.write else [])
            + (["_probabilities.nii.gz"] if self.probabilities else [])
        )

    def _start(self, _: Any) -> None:
        self._outcomes = []
        model = str(self.about.get("model", ""))
        if self.measure and model and Path(model).is_file() and process_group.is_first():
            self.about["model_sha256"] = file_sha256(model)

    def _case(self, engine: Any) -> None:
        batch = engine.state.batch
        outcome = _Outcome(batch["case"].name, batch.get("error", ""))
        self._outcomes.append(outcome)
        if outcome.error or (self.num_cases and not has_share(self.num_cases)):
            return
        predicted: torch.Tensor = engine.state.output[CommonKeys.PRED][0]
        done, world_size = engine.state.iteration - 1, process_group.world_size() if self.num_cases else 1
        place = f"{done * world_size + process_group.rank() + 1} of {self.num_cases or engine.state.epoch_length}"
        self._behind.do(lambda: self._put_out(batch, predicted, outcome, place))

    def _put_out(self, batch: dict[str, Any], predicted: torch.Tensor, outcome: _Outcome, place: str) -> None:
        case, geometry, placement = batch["case"], batch["geometry"], batch["placement"]
        if predicted.shape[0] == 1:
            labels = restore_stored_labels(predicted[0].cpu().numpy(), placement, geometry, self.plan)
        else:
            labels = restore_labels(predicted, placement, geometry, self.plan)
        if self.postprocessing is not None:
            labels = self.postprocessing.apply(labels)
        as_array = self.write and "npy" in self.formats
        if self.write and "nii" in self.formats:
            outcome.written.append(self._write_labels(case, labels, geometry))
        if self.write:
            outcome.written += self._segmentations.write(case, labels, geometry, self.folder)
        if self.probabilities or as_array:
            probabilities = restore_probabilities(predicted, placement, geometry, self.plan)
            if self.probabilities:
                path = self.folder / f"{case.name}_probabilities.nii.gz"
                write_probabilities(path, probabilities, geometry)
                outcome.written.append(path)
            if as_array:
                path = self.folder / f"{case.name}.npy"
                with replacing(path) as partial:
                    np.save(partial, probabilities)
                outcome.written.append(path)
        if self.measure:
            outcome.metrics = case_metrics(
                labels,
                batch["reference"],
                geometry.spacing,
                self.plan.foreground_classes,
                tolerance_mm=self.tolerance_mm,
                ignore_label=self.plan.ignore_label,
            )
        if self.measure and self.decide:
            outcome.trial = PostprocessingTrial(self.plan.foreground_classes, self.plan.ignore_label)
            outcome.trial.add(case.name, labels, batch["reference"])
        logger.info("%s (%s)", case.name, place)

    def _write_labels(self, case: Case, labels: np.ndarray, geometry: Geometry) -> Path:
        picture = is_picture(case.images[0]) and len(geometry.file_shape) == 2
        path = self.folder / f"{case.name}{'.png' if picture else '.nii.gz'}"
        (write_png_labels if picture else write_label_map)(path, labels, geometry)
        return path

    def _finish(self) -> None:
        process_group.together(self._behind.wait)
        outcomes = collect(self._outcomes, self.num_cases) if self.num_cases else self._outcomes
        self.metrics = {outcome.name: outcome.metrics for outcome in outcomes if outcome.metrics is not None}
        self.written = [path for outcome in outcomes for path in outcome.written]
        self.failed = [outcome.error for outcome in outcomes if outcome.error]
        process_group.first_alone(lambda: self._report([o.trial for o in outcomes if o.trial is not None]))

    def _report(self, trials: Sequence[PostprocessingTrial]) -> None:
        if self.measure and self.metrics:
            decided = PostprocessingTrial.joined(trials).decide() if trials else None
            summary = write_report(self.folder, self.metrics, {**self.about, **self._about_postprocessing(decided)})
            print(format_table(summary))
            if decided is not None:
                if self.decision_file is not None:
                    decided.save(self.decision_file)
                print(decided.describe(self.plan.foreground_classes))
                print(f"({DECIDED_NOTE})")
            print(f"metrics: {self.folder.resolve() / 'metrics.json'} and metrics.csv, summary.json")
        if self.written:
            print(f"{len(self.written)} files written to {self.folder.resolve()}")
        if self.failed:
            listed = "\n".join(f"  - {line}" for line in self.failed)
            raise InputError(f"{len(self.failed)} cases could not be read, all others are done:\n{listed}")

    def _about_postprocessing(self, decided: Postprocessing | None) -> dict[str, Any]:
        """Entry of the summary: what was applied, or what was decided and the Dice before and after."""
        if decided is None:
            kept = self.postprocessing.keep_largest if self.postprocessing is not None else ()
            return {"postprocessing": {"applied": [list(values) for values in kept]}}
        adopted = [step for step in decided.why if step.adopted]
        before = decided.why[0].before if decided.why else {}
        return {
            "postprocessing": {
                "applied": [],
                "decided": [list(values) for values in decided.keep_largest],
                "dice_before": before,
                "dice_after": adopted[-1].after if adopted else before,
                "note": DECIDED_NOTE,
            }
        }


def _formats(pred_format: str) -> tuple[str, ...]:
    formats = tuple(part.strip() for part in re.split(r"[,+]", pred_format))
    if not set(formats) <= set(FORMATS):
        raise InputError(f"--pred_format {pred_format}: unknown format. Cure: {', '.join(FORMATS)}, or as nii+npy")
    return formats
