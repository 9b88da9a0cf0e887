"""What becomes of the logits of a classifier: scores of held-out cases, the most probable classes of others."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys

from monai_ext.atomic_files import write_text
from monai_ext.engines import process_group
from monai_ext.engines.calibration_file import calibration_beside
from monai_ext.engines.case_share import collect, collect_rows, has_share
from monai_ext.engines.shared_completion import when_all_are_done
from monai_ext.errors import InputError
from monai_ext.evaluation.calibration import CALIBRATION_FILE, fitted_temperature
from monai_ext.evaluation.classification_report import write_classification_report
from monai_ext.evaluation.classification_scores import class_probabilities
from monai_ext.evaluation.classification_table import report_table
from monai_ext.file_digest import file_sha256

logger = logging.getLogger(__name__)
REPORT_FILES = ("summary.json", "per_class.csv", "predictions.csv", "confusion.png")
DrawActivation = Callable[[torch.Tensor, int, str, Path], None]


class ClassEvaluation:
    """Collects the logits of evaluated cases; writes and prints their scores when all are there.

    Args:
        folder: for the files of `write_classification_report`.
        about: further entries of the summary.
        classes: names, in the order of the network's outputs.
        ckpt_path: the model, whose digest is recorded.
        multi_label: an image may have several classes or none.
        threshold: of multi-label decisions, one or one per class.
        calibrate: these are validation cases of the model: the calibration error is given with cross-fitted
            temperatures, and `calibration.json` with the temperature fitted on all cases is written beside the model.
            False, for a test set: the temperature that lies beside the model is scored and kept; without one, it is
            cross-fitted and written nowhere.
        groups: case name to group, such as the patient; empty: every case by itself.
        bootstrap: draws of the intervals; 0 leaves them out.
        seed: of bootstrap and cross-fit.
        num_cases: of all processes together, dealt out by `CaseShare`; the first then reports on all of them. 0: this
            process has all.

    Raises:
        InputError: thresholds outside 0 to 1, a number of them that is not that of the classes, or `bootstrap` below 0.
    """

    def __init__(
        self,
        folder: str | Path,
        about: Mapping[str, Any],
        classes: Sequence[str],
        ckpt_path: str | Path,
        multi_label: bool = False,
        threshold: float | Sequence[float] = 0.5,
        calibrate: bool = True,
        groups: Mapping[str, str] | None = None,
        bootstrap: int = 1000,
        seed: int = 0,
        num_cases: int = 0,
    ) -> None:
        self.folder = Path(folder)
        self.about = dict(about)
        self.classes = tuple(classes)
        self.ckpt_path = Path(ckpt_path)
        self.multi_label = multi_label
        self.thresholds = checked_thresholds(threshold, len(self.classes))
        self.calibrate = calibrate
        self.groups = dict(groups or {})
        if bootstrap < 0:
            raise InputError(f"--bootstrap {bootstrap}: must not be negative. Cure: 1000, or 0 for no intervals")
        self.bootstrap = bootstrap
        self.seed = seed
        self.num_cases = num_cases
        self.summary: dict[str, Any] = {}
        self._clear()

    def _clear(self, _: Any = None) -> None:
        self._names: list[str] = []
        self._logits: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        when_all_are_done(engine, self._finish)

    def _collect(self, engine: Any) -> None:
        output = engine.state.output
        logits = torch.as_tensor(output[CommonKeys.PRED]).detach()
        self._logits.append(logits.to(torch.float32, copy=True))
        self._labels.append(torch.as_tensor(output[CommonKeys.LABEL]).detach().clone().reshape(len(logits), -1))
        self._names += list(engine.state.batch["case"])

    @process_group.one_error
    def _finish(self) -> None:
        if not self._names:
            raise InputError("evaluation: there are no cases. Cure: check that the fold or folder holds cases")
        names, logits, labels = (
            self._names,
            torch.cat(self._logits).cpu().numpy(),
            torch.cat(self._labels).cpu().numpy(),
        )
        if self.num_cases:
            names = collect(names, self.num_cases)
            logits, labels = collect_rows(logits, self.num_cases), collect_rows(labels, self.num_cases)
        process_group.first_alone(lambda: self._report(names, logits, labels))

    def _report(self, names: Sequence[str], logits: np.ndarray, labels: np.ndarray) -> None:
        labels = labels if self.multi_label else labels[:, 0]
        digest = file_sha256(self.ckpt_path)
        known = calibration_beside(self.ckpt_path, wanted=not self.calibrate)
        self.summary = write_classification_report(
            self.folder,
            names,
            logits,
            labels,
            self.classes,
            self.multi_label,
            {"model_sha256": digest, **self.about},
            known.temperature if known is not None else None,
            [self.groups.get(name, name) for name in names] if self.groups else None,
            self.bootstrap,
            self.thresholds,
            self.seed,
        )
        print(report_table(self.summary))
        files = [self.folder / file for file in REPORT_FILES]
        if self.calibrate:
            files.append(self.ckpt_path.parent / CALIBRATION_FILE)
            fitted_temperature(logits, labels, self.multi_label, digest).save(files[-1])
        for file in files:
            print(f"{file.name + ':':<18}{file.resolve()}")
        logger.info("%d cases", len(names))
        logger.info("accuracy %.4f", self.summary["accuracy"])


class TopKPrediction:
    """Writes the most probable classes of every image to `predictions.csv` and `predictions.json`.

    Args:
        folder: for the files.
        classes: names, in the order of the network's outputs.
        top_k: classes listed per image, at most all.
        temperature: logits are divided by it; 0: what `calibration_beside` finds for `ckpt_path`, else 1.
        multi_label: probabilities by sigmoid; classes of at least `threshold` are the image's labels.
        threshold: of multi-label decisions, one or one per class.
        draw_activation: called with (image `[C, *size]` as the network got it, class index, caption, path of the
            picture) for every image, see `evaluation.class_activation.ActivationPicture`; None draws nothing.
        ckpt_path: the model; "": unknown.
        num_cases: of all processes together, dealt out by `CaseShare`; the first then writes the tables of all of them,
            pictures are drawn by whoever has the image. 0: this process has all.

    Raises:
        InputError: `top_k` below 1, a threshold outside 0 to 1, a negative temperature, or a damaged calibration file.
    """

    def __init__(
        self,
        folder: str | Path,
        classes: Sequence[str],
        top_k: int = 5,
        temperature: float = 0.0,
        multi_label: bool = False,
        threshold: float | Sequence[float] = 0.5,
        draw_activation: DrawActivation | None = None,
        ckpt_path: str | Path = "",
        num_cases: int = 0,
    ) -> None:
        self.folder = Path(folder)
        self.num_cases = num_cases
        self.classes = tuple(classes)
        if top_k < 1:
            raise InputError(f"--top_k {top_k}: must be at least 1. Cure: 5")
        self.top_k = min(top_k, len(self.classes))
        if not 0 <= temperature < math.inf:
            raise InputError(f"--temperature {temperature}: must be above 0, or 0 for the fitted one. Cure: 1")
        self.temperature = temperature
        self.ckpt_path = ckpt_path
        self.multi_label = multi_label
        self.thresholds = np.broadcast_to(checked_thresholds(threshold, len(self.classes)), (len(self.classes),))
        self.draw_activation = draw_activation
        self.predictions: list[dict[str, Any]] = []

    @cached_property
    def divisor(self) -> float:
        """Temperature that is used; read when the first prediction is there, as a training may write it just before."""
        if self.temperature:
            return self.temperature
        fitted = calibration_beside(self.ckpt_path) if self.ckpt_path else None
        if fitted is not None:
            logger.info("probabilities with temperature %.3f, fitted on %d cases", fitted.temperature, fitted.cases)
        return fitted.temperature if fitted is not None else 1.0

    @property
    def paths(self) -> tuple[Path, Path]:
        return self.folder / "predictions.csv", self.folder / "predictions.json"

    @process_group.one_error
    def check_new(self, overwrite: bool) -> None:
        """Raise `InputError` if a file is there and must not be replaced."""
        there = [str(path) for path in self.paths if path.exists()]
        if there and not overwrite:
            raise InputError(f"{', '.join(there)}: exists already. Cure: another --output_dir, or --overwrite True")

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda _: self.predictions.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        when_all_are_done(engine, self._finish)

    def _collect(self, engine: Any) -> None:
        output, names = engine.state.output, list(engine.state.batch["case"])
        logits = torch.as_tensor(output[CommonKeys.PRED]).detach().float().cpu().numpy()
        bad = [name for name, row in zip(names, logits, strict=True) if not np.isfinite(row).all()]
        if bad:
            raise InputError(
                f"{', '.join(bad[:5])}: the network gives numbers that are not finite. "
                "Cure: another checkpoint, or an image without NaN"
            )
        # thresholds are those of the evaluation, which scores the probabilities as the network gives them
        plain = class_probabilities(logits, self.multi_label)
        for i, values in enumerate(class_probabilities(logits, self.multi_label, self.divisor)):
            order = np.argsort(-values, kind="stable")[: self.top_k]
            top = [{"class": self.classes[k], "probability": round(float(values[k]), 6)} for k in order]
            entry: dict[str, Any] = {"file": names[i], "top": top}
            if self.multi_label:
                entry["labels"] = [self.classes[k] for k in np.flatnonzero(plain[i] >= self.thresholds)]
            self.predictions.append(entry)
            if self.draw_activation is not None and (not self.num_cases or has_share(self.num_cases)):
                caption = f"{top[0]['class']} {100 * top[0]['probability']:.1f} %"
                image = torch.as_tensor(output[CommonKeys.IMAGE][i])
                # the ending stays: a.jpg and a.png are two images
                self.draw_activation(image, int(order[0]), caption, self.folder / "activations" / f"{names[i]}.png")

    def _finish(self) -> None:
        found = collect(self.predictions, self.num_cases) if self.num_cases else self.predictions
        process_group.first_alone(lambda: self._write(found))

    def _write(self, predictions: Sequence[Mapping[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("file", "rank", "class", "probability"))
        for entry in predictions:
            for rank, found in enumerate(entry["top"], 1):
                writer.writerow((entry["file"], rank, found["class"], f"{found['probability']:.6f}"))
        table, details = self.paths
        write_text(table, text.getvalue())
        content = {
            "classes": self.classes,
            "multi_label": self.multi_label,
            "temperature": self.divisor,
            **({"thresholds": self.thresholds.tolist()} if self.multi_label else {}),
            "predictions": predictions,
        }
        write_text(details, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        for entry in predictions[:20]:
            print(
                f"{entry['file']}: " + ", ".join(f"{t['class']} {100 * t['probability']:.1f} %" for t in entry["top"])
            )
        if len(predictions) > 20:
            print(f"... and {len(predictions) - 20} more")
        print(f"{len(predictions)} images: {table.resolve()} and {details.name}")


def checked_thresholds(thresholds: float | Sequence[float], num_classes: int) -> float | tuple[float, ...]:
    """Thresholds of multi-label decisions, one for all classes or one for each.

    Raises:
        InputError: outside 0 to 1, or another number of them than of classes.
    """
    several = tuple(thresholds) if isinstance(thresholds, Sequence) else ()
    values = several or (thresholds,)
    if not all(isinstance(value, int | float) and 0 < value < 1 for value in values):
        raise InputError(f"--threshold {thresholds}: must be between 0 and 1. Cure: 0.5")
    if several and len(several) != num_classes:
        raise InputError(f"--threshold {thresholds}: must be one, or {num_classes}, one per class. Cure: 0.5")
    return several or float(thresholds)  # type: ignore[arg-type]
