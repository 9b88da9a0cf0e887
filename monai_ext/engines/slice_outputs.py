"""What becomes of predicted slices: scores of held-out ones, a stack of probabilities of others."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys

from monai_ext.datasets.em_writing import masks_name as masks_name
from monai_ext.datasets.em_writing import write_stack
from monai_ext.engines import process_group
from monai_ext.engines.case_share import collect_at_first
from monai_ext.engines.shared_completion import when_all_are_done
from monai_ext.engines.slice_dice import hard_dice
from monai_ext.errors import InputError
from monai_ext.evaluation.membrane_picture import draw_membranes
from monai_ext.evaluation.segment_scores import best_segment_scores
from monai_ext.evaluation.slice_report import score_table, slice_means, write_slice_report
from monai_ext.evaluation.soft_dice import soft_dice
from monai_ext.file_digest import file_sha256
from monai_ext.preprocessing.slice_resize import resized, resized_labels

logger = logging.getLogger(__name__)
PRED_FORMATS = ("probability", "labels")


@dataclass(frozen=True)
class _ScoredSlice:
    """A slice as it goes to the process that reports; pages `[H, W]`, float32 and a uint8 label."""

    name: str
    scores: dict[str, float]
    image: np.ndarray
    probability: np.ndarray
    label: np.ndarray


class SliceEvaluation:
    """Collects predicted validation slices; writes and prints their scores when all are there.

    Per slice: `soft_dice` of probabilities at full resolution, `soft_dice_network` at the size the network gives (the
    score that NVIDIA's UNet Medical reports; the same where slices are not resized), hard Dice of both classes at full
    resolution. For all slices together V_rand and V_info, see `best_segment_scores`.

    Args:
        folder: for `metrics.json`, `metrics.csv`, `summary.json`, `probabilities.tif` and `overlay.png`.
        about: further entries of the summary.
        ckpt_path: the model, whose digest is recorded.
        thresholds: tried for V_rand and V_info.
        num_cases: slices of all processes together, dealt out by `CaseShare`; the first then reports on all of them.
            0: this process has all.

    Raises:
        InputError: no thresholds, or some outside 0 to 1.
    """

    def __init__(
        self,
        folder: str | Path,
        about: Mapping[str, Any],
        ckpt_path: str,
        thresholds: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        num_cases: int = 0,
    ) -> None:
        if not thresholds or not all(0 < threshold < 1 for threshold in thresholds):
            raise InputError(f"--thresholds {list(thresholds)}: must be between 0 and 1, at least one. Cure: [0.5]")
        self.folder = Path(folder)
        self.about = dict(about)
        self.ckpt_path = ckpt_path
        self.thresholds = tuple(thresholds)
        self.num_cases = num_cases
        self._slices: list[_ScoredSlice] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda _: self._slices.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        when_all_are_done(engine, self._finish)

    def _collect(self, engine: Any) -> None:
        output = engine.state.output
        image, native, labels = output[CommonKeys.IMAGE], output[CommonKeys.PRED], output[CommonKeys.LABEL]
        full = resized(native, labels.shape[-2:])
        soft, hard = soft_dice(full, labels).mean(1), hard_dice(full, labels)
        soft_network = soft_dice(native, resized_labels(labels, native.shape[-2:])).mean(1)
        for i, name in enumerate(engine.state.batch["case"]):
            scores = {
                "soft_dice": float(soft[i]),
                "soft_dice_network": float(soft_network[i]),
                "dice_membrane": float(hard[i, 0]),
                "dice_background": float(hard[i, 1]),
            }
            background = full[i, 1].clamp(0, 1)  # a weighted mean may exceed 1 by rounding
            page, probability = (tensor.float().cpu().numpy() for tensor in (image[i, 0], background))
            label = labels[i, 0].to(torch.uint8).cpu().numpy()
            self._slices.append(_ScoredSlice(name, scores, page, probability, label))

    def _finish(self) -> None:
        slices = collect_at_first(self._slices, self.num_cases) if self.num_cases else self._slices
        process_group.first_alone(lambda: self._report(slices))

    def _report(self, slices: Sequence[_ScoredSlice]) -> None:
        scores = {found.name: found.scores for found in slices}
        images, probabilities, labels = (
            np.stack(pages) for pages in zip(*((s.image, s.probability, s.label) for s in slices), strict=True)
        )
        segments = best_segment_scores(probabilities, labels, self.thresholds)
        summary = {
            "num_cases": len(scores),
            **slice_means(scores),
            **{name: getattr(segments, name) for name in segments.__dataclass_fields__},
            "model_sha256": file_sha256(Path(self.ckpt_path)),
            **self.about,
        }
        write_slice_report(self.folder, scores, summary)
        write_stack(self.folder / "probabilities.tif", probabilities.astype(np.float32))
        draw_membranes(self.folder / "overlay.png", images, labels, probabilities, list(scores))
        print(score_table(summary))
        for file in ("summary.json", "metrics.csv", "probabilities.tif", "overlay.png"):
            print(f"{file + ':':<19}{(self.folder / file).resolve()}")
        logger.info("%d slices", len(scores))
        logger.info("mean foreground Dice %.3f", summary["dice_membrane"])


class StackPrediction:
    """Collects predicted slices and writes them as one multi-page TIFF when all are there.

    Args:
        path: of the file.
        pred_format: `probability` of class 1, background (float32, 0 is membrane, as the ISBI 2012 challenge wants it),
            or `labels` of 8 bits, 0 membrane and 255 background.
        num_cases: slices of all processes together, dealt out by `CaseShare`; the first then writes all of them.
            0: this process has all.

    Raises:
        InputError: the format is unknown.
    """

    def __init__(self, path: str | Path, pred_format: str = "probability", num_cases: int = 0) -> None:
        if pred_format not in PRED_FORMATS:
            raise InputError(f"--pred_format {pred_format!r}: is not known. Cure: one of {', '.join(PRED_FORMATS)}")
        self.path = Path(path)
        self.pred_format = pred_format
        self.num_cases = num_cases
        self._pages: list[np.ndarray] = []

    @process_group.one_error
    def check_new(self, overwrite: bool) -> None:
        """Raise `InputError` if the file is there and must not be replaced."""
        if self.path.exists() and not overwrite:
            raise InputError(f"{self.path}: exists already. Cure: another --output_dir, or --overwrite True")

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda _: self._pages.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        when_all_are_done(engine, self._finish)

    def _collect(self, engine: Any) -> None:
        output = engine.state.output
        full = resized(output[CommonKeys.PRED], output[CommonKeys.IMAGE].shape[-2:])
        for page in full[:, 1].float().cpu().clamp(0, 1):
            self._pages.append(page.numpy() if self.pred_format == "probability" else _labels(page))

    def _finish(self) -> None:
        pages = collect_at_first(self._pages, self.num_cases) if self.num_cases else self._pages
        process_group.first_alone(lambda: self._write(np.stack(pages)))

    def _write(self, pages: np.ndarray) -> None:
        write_stack(self.path, pages)
        print(f"{len(pages)} pages of {pages.shape[1]} x {pages.shape[2]}, {pages.dtype}: {self.path.resolve()}")


def _labels(page: torch.Tensor) -> np.ndarray:
    return (page >= 0.5).numpy().astype(np.uint8) * 255
