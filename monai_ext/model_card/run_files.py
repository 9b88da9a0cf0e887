"""What a trained run has left in its folder, read for its model card; nothing is loaded that needs PyTorch."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_ext.errors import InputError, Problems
from monai_ext.file_digest import file_sha256
from monai_ext.model_card.run_record import read_record
from monai_ext.planning.plan_file import read_plan_file
from monai_ext.planning.plan_kinds import SIGNS, bundle_of

PER_CASE = ("evaluation/metrics.json", "evaluation/per_image.csv")
CURE = "give the output folder of a training that has ended"


@dataclass(frozen=True)
class RunFiles:
    """A trained run.

    Attributes:
        folder: of the run.
        bundle: `nnunet`, `unet_em`, `se_resnext101` or `mask_rcnn`.
        plan: content of `plan.json`.
        model_sha256, model_bytes: of `model.pt`.
        training: `metrics.json`, scores at the end of the training; empty if missing.
        summary: `evaluation/summary.json`; empty if the run was not evaluated.
        cases: scores of each case of the evaluation, by case; of segmentations in several classes by class.
        fold: names of the cases under `train` and `val`; empty if missing.
        log: rows of `log.jsonl`.
        calibration, postprocessing: of the files of that name; empty if missing.
        record: see `monai_ext.model_card.run_record`.
        pictures: all PNG files that training and evaluation have drawn.
    """

    folder: Path
    bundle: str
    plan: dict[str, Any]
    model_sha256: str
    model_bytes: int
    training: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    fold: dict[str, Any] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    calibration: dict[str, Any] = field(default_factory=dict)
    postprocessing: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[Path, ...] = ()

    @property
    def evaluates_these_weights(self) -> bool:
        """Whether the evaluation measured this `model.pt`; an old evaluation that does not say is believed."""
        return self.summary.get("model_sha256", self.model_sha256) == self.model_sha256


def read_run(place: str | Path) -> RunFiles:
    """Read a run.

    Args:
        place: its output folder, or `model.pt` in it.

    Raises:
        InputError: there is no trained model, its plan is missing or of no bundle, or files are damaged, all of which
            are named.
    """
    folder = Path(place)
    folder = folder.parent if folder.name == "model.pt" else folder
    if not folder.is_dir():
        raise InputError(f"{place}: does not exist. Cure: {CURE}")
    model = folder / "model.pt"
    if not model.is_file():
        raise InputError(f"{folder}: holds no model.pt. Cure: {CURE}")
    plan = read_plan_file(folder / "plan.json")
    bundle = bundle_of(plan)
    if not bundle:
        raise InputError(f"{folder / 'plan.json'}: is the plan of none of {', '.join(SIGNS)}. Cure: {CURE}")
    problems = Problems(str(folder))
    run = RunFiles(
        folder,
        bundle,
        plan,
        file_sha256(model),
        model.stat().st_size,
        **{
            name: _object(folder / file, problems)
            for name, file in (
                ("training", "metrics.json"),
                ("summary", "evaluation/summary.json"),
                ("fold", "fold.json"),
                ("calibration", "calibration.json"),
                ("postprocessing", "postprocessing.json"),
            )
        },
        cases=_cases(folder, problems),
        log=_rows(folder / "log.jsonl", problems),
        record=read_record(folder),
        pictures=tuple(sorted([*folder.glob("*.png"), *folder.glob("evaluation/*.png")])),
    )
    problems.raise_if_any()
    return run


def _object(path: Path, problems: Problems) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problems.add(path, f"is not JSON ({error})", "restore it, or evaluate or train again")
        return {}
    if not isinstance(content, dict):
        problems.add(path, f"must be an object, found {type(content).__name__}", "restore it, or evaluate again")
        return {}
    return content


def _rows(path: Path, problems: Problems) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        problems.add(path, f"is not a file of JSON lines ({error})", "restore it, or remove it")
        return []
    return [row for row in rows if isinstance(row, dict)]


def _cases(folder: Path, problems: Problems) -> dict[str, dict[str, Any]]:
    """Scores of each case: JSON of most bundles, a table of Mask R-CNN."""
    found = _object(folder / PER_CASE[0], problems)
    if found:
        return {name: scores for name, scores in found.items() if isinstance(scores, dict)}
    path = folder / PER_CASE[1]
    if not path.is_file():
        return {}
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        problems.add(path, f"is not a table ({error})", "evaluate again")
        return {}
    return {str(row.get("image")): {name: _number(text) for name, text in row.items() if name} for row in rows}


def _number(text: str | None) -> float | int | None:
    try:
        value = float(text or "")
    except (TypeError, ValueError):
        return None
    return int(value) if value.is_integer() and "." not in str(text) else value
