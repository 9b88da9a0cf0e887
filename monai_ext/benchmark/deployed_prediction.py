"""Prediction of a fold by torch and by exported files: label maps, Dice, and time, of the same cases."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from monai_ext.benchmark.interleaved import Interleaved, Task, time_interleaved
from monai_ext.benchmark.measurement_rows import (
    append_rows,
    circumstances,
    format_table,
    installed_versions,
    measured_device,
    milliseconds,
)
from monai_ext.datasets.msd import read_msd
from monai_ext.datasets.segmentation_dataset import Case
from monai_ext.engines.fold_file import read_fold_file
from monai_ext.engines.onnx_inference import onnx_network
from monai_ext.engines.raw_volumes import RawVolumes
from monai_ext.engines.run_folder import on_device
from monai_ext.errors import InputError
from monai_ext.evaluation.segmentation_metrics import case_metrics
from monai_ext.export.manifest import MANIFEST
from monai_ext.export.segmenter import export_segmenter
from monai_ext.export.trained_model import TrainedModel, open_model
from monai_ext.inferers.bfloat16_inferer import has_native_bfloat16
from monai_ext.inferers.window_inferer import WindowInferer
from monai_ext.ops import forms
from monai_ext.planning.plan import Plan
from monai_ext.preprocessing.case_preprocessing import needs_resampling, restore_labels, restore_stored_labels

PLAIN, FUSED, BFLOAT16 = "torch", "torch, fused ops", "torch, fused ops, bfloat16"
FLOAT, INT8 = "ONNX Runtime", "ONNX Runtime, int8"
FILES = {FLOAT: "model.onnx", INT8: "model_int8.onnx"}
# time over that of plain torch; voxels that agree with it in every case; points of mean Dice that may be lost
TIME_TARGETS = {FLOAT: 0.85, INT8: 0.6}
AGREEMENT_TARGET, DICE_TARGET = 0.9999, 0.5
COLUMNS = (
    "dataset",
    "side",
    "cases",
    "agreement_least",
    "agreement",
    "class_dice",
    "mean_dice",
    "dice_loss_points",
    "min_ms",
    "median_ms",
    "max_ms",
    "n",
    "ratio",
    "target_ratio",
    "reached",
    "timed_cases",
    "sw_batch_size",
    "device",
    "threads",
    "versions",
    "commit",
    "date",
)
SHOWN = COLUMNS[1:15]

logger = logging.getLogger(__name__)
Predict = Callable[[Mapping[str, Any]], torch.Tensor]


@dataclass(frozen=True)
class _Found:
    """What a side gives on all cases: share of voxels equal to the first side's, and Dice, per case."""

    agreement: list[float]
    dice: dict[str, list[float]]


def run_deployed_benchmark(
    run: str | Path,
    dataset_dir: str | Path,
    export_dir: str | Path = "",
    rounds: int = 7,
    timed_cases: int = 4,
    most_cases: int = 0,
    sw_batch_size: int = 2,
    results: str = "",
) -> list[dict[str, Any]]:
    """Compare and time the forms of a trained nnU-Net on the validation cases of its fold, print and append the rows.

    Args:
        run: output folder of a training, with `fold.json` or an evaluation, which tell the validation cases.
        dataset_dir: what it was trained on.
        export_dir: of ONNX files; empty takes `export` in `run`. If no export is there, it is made, with 8-bit ranges
            from training cases of the fold.
        rounds: timings per side, in turns, each over all timed cases; 0 times nothing.
        timed_cases: evenly spread over the fold.
        most_cases: validation cases that are compared; 0 takes all.
        sw_batch_size: windows per call of the network.
        results: CSV file; empty for none.

    Returns:
        Rows with `COLUMNS`. Times are of a case, from prepared image to label map; `ratio` is over that of plain torch
        in float32, `agreement` of voxels of the raw grid with it. `reached` is of agreement or Dice, and of times where
        they were measured.

    Raises:
        InputError: the model is of another bundle, the fold is not known, or cases of it are not in the dataset.
    """
    model = open_model(run)
    if model.bundle != "nnunet":
        raise InputError(f"{run}: is a model of {model.bundle}. Cure: a training of the nnunet bundle")
    training, validation = _fold(model, Path(dataset_dir))
    folder = Path(export_dir) if str(export_dir) else model.folder / "export"
    if not (folder / MANIFEST).is_file():
        _export(model, folder, training)
    cases = RawVolumes(validation[: most_cases or None], model.plan)
    sides = _sides(model, folder, sw_batch_size)
    found = _compare(sides, cases, model.plan)
    chosen = [cases[round(i)] for i in np.linspace(0, len(cases) - 1, min(timed_cases, len(cases)))]
    timing = _time(sides, chosen, rounds) if rounds else None
    about: dict[str, Any] = {"dataset": model.plan.dataset, "cases": len(cases), "sw_batch_size": sw_batch_size}
    about |= {"timed_cases": len(chosen) if rounds else "", "device": measured_device("cpu")}
    about |= {"threads": torch.get_num_threads(), "versions": installed_versions(("torch", "monai", "onnxruntime"))}
    rows = [_row(side, found, timing, len(chosen)) | about | circumstances() for side in sides]
    rows = [{name: row[name] for name in COLUMNS} for row in rows]
    print(format_table(rows, SHOWN, 1))
    if results:
        append_rows(Path(results), rows, COLUMNS)
    return rows


def _fold(model: TrainedModel, dataset_dir: Path) -> tuple[list[Case], list[Case]]:
    """Cases of training and validation, in the order of their names."""
    measured = model.folder / "evaluation" / "metrics.json"
    if (model.folder / "fold.json").is_file():
        names = set(read_fold_file(model.folder / "fold.json")["val"])
    elif measured.is_file():
        names = set(json.loads(measured.read_text(encoding="utf-8")))
    else:
        raise InputError(f"{model.folder}: has no fold.json and no evaluation. Cure: run evaluating first")
    dataset = read_msd(dataset_dir)
    cases = sorted(dataset.training, key=lambda case: case.name)
    missing = sorted(names - {case.name for case in cases})
    if missing or not names:
        raise InputError(
            f"{dataset_dir}: lacks {', '.join(missing[:3]) or 'every case'} of the fold of {model.folder}. "
            "Cure: the dataset of the training"
        )
    return [case for case in cases if case.name not in names], [case for case in cases if case.name in names]


def _export(model: TrainedModel, folder: Path, training: Sequence[Case]) -> None:
    with TemporaryDirectory() as linked:
        for image in (image for case in training for image in case.images):
            (Path(linked) / image.name).symlink_to(image.resolve())
        export_segmenter(model, folder, ("onnx",), quantize="int8", images=linked)


def _sides(model: TrainedModel, folder: Path, sw_batch_size: int) -> dict[str, Predict]:
    """Ways from a prepared case to labels or logits, by name; plain torch first."""
    plan: Plan = model.plan

    def side(network: torch.nn.Module, form: str = "auto", cpu_bfloat16: bool = False) -> Predict:
        inferer = WindowInferer(plan.patch_size, sw_batch_size, cpu_bfloat16=cpu_bfloat16)

        def predict(item: Mapping[str, Any]) -> torch.Tensor:
            resampled = needs_resampling(item["placement"], item["geometry"], plan)
            with torch.inference_mode(), forms.forced(form):
                image = item["image"][None]
                return inferer(image, network)[0] if resampled else inferer.segment(image, network)[0]

        return predict

    network = on_device(model.network, "cpu", channels_last=True)
    sides = {PLAIN: side(network, "torch"), FUSED: side(network)}
    if has_native_bfloat16():
        sides[BFLOAT16] = side(network, cpu_bfloat16=True)
    for name, file in FILES.items():
        if (folder / file).is_file():
            sides[name] = side(onnx_network(plan, str(model.ckpt_path), "", str(folder / file)))
    return sides


def _compare(sides: Mapping[str, Predict], cases: RawVolumes, plan: Plan) -> dict[str, _Found]:
    found = {name: _Found([], {label: [] for label in plan.foreground_classes}) for name in sides}
    for number in range(len(cases)):
        item = cases[number]
        if "error" in item:
            raise InputError(item["error"])
        expected: np.ndarray | None = None
        for name, predict in sides.items():
            labels = _on_raw_grid(predict(item), item, plan)
            expected = labels if expected is None else expected
            found[name].agreement.append(float((labels == expected).mean()))
            metrics = case_metrics(labels, item["reference"], item["geometry"].spacing, plan.foreground_classes)
            for label, values in metrics.items():
                found[name].dice[label].append(float(values["dice"]))
        logger.info("%s (%d of %d)", item["case"].name, number + 1, len(cases))
    return found


def _on_raw_grid(predicted: torch.Tensor, item: Mapping[str, Any], plan: Plan) -> np.ndarray:
    way_back = (item["placement"], item["geometry"], plan)
    if predicted.shape[0] == 1:
        return restore_stored_labels(predicted[0].numpy(), *way_back)
    return restore_labels(predicted, *way_back)


def _time(sides: Mapping[str, Predict], items: Sequence[Mapping[str, Any]], rounds: int) -> Interleaved:
    def task(predict: Predict) -> Task:
        return Task(lambda: [predict(item) for item in items])

    return time_interleaved({name: task(predict) for name, predict in sides.items()}, rounds)


def _row(side: str, found: Mapping[str, _Found], timing: Interleaved | None, items: int) -> dict[str, Any]:
    own, plain = found[side], found[PLAIN]
    dice = {label: mean(values) for label, values in own.dice.items()}
    mean_dice = mean(dice.values())
    loss = 100 * (mean(mean(values) for values in plain.dice.values()) - mean_dice)
    row: dict[str, Any] = {
        "side": side,
        "agreement_least": f"{min(own.agreement):.6f}",
        "agreement": f"{mean(own.agreement):.6f}",
        "class_dice": ", ".join(f"{label} {value:.4f}" for label, value in dice.items()),
        "mean_dice": f"{mean_dice:.4f}",
        "dice_loss_points": f"{loss:.3f}",
        **dict.fromkeys(("min_ms", "median_ms", "max_ms", "n", "ratio", "target_ratio"), ""),
    }
    reached = side == INT8 or min(own.agreement) >= AGREEMENT_TARGET
    reached = reached and (side != INT8 or loss < DICE_TARGET)
    if timing is not None:
        times = (milliseconds(seconds / items) for seconds in timing.spread(side))
        row |= dict(zip(("min_ms", "median_ms", "max_ms"), times, strict=True))
        ratio = timing.ratio(side, PLAIN)
        row |= {"n": len(timing.seconds[side]), "ratio": f"{ratio:.3f}", "target_ratio": TIME_TARGETS.get(side, "")}
        reached = reached and ratio <= TIME_TARGETS.get(side, ratio)
    row["reached"] = ("yes" if reached else "no") if side in TIME_TARGETS else ""
    return row
