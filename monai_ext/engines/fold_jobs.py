"""What the folds of a cross-validation are: their cases, folders and commands, taken from the running config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_ext.atomic_files import write_text
from monai_ext.engines.checkpoint_files import LAST, PREVIOUS
from monai_ext.errors import InputError
from monai_ext.file_digest import file_sha256

COMMAND_FILE, DONE_FILE = "fold_command.json", "fold_done.json"
OUTPUT_FILE = "fold_output.log"
# keys that may differ between the run that finished a fold and the present one without making it another training
SAME_RESULT_KEYS = {
    "run_id", "config_file", "resume", "overwrite", "num_workers", "device", "log_interval", "cv_folds", "run",
    "bundle_root", "store_dir", "output_dir", "initialize", "finalize",
}  # fmt: skip


# keys after whose change a finished training may go on, or is only evaluated anew
LENGTH_KEYS = {
    "max_epochs", "min_epochs", "max_minutes", "max_steps", "val_interval", "val_start_epoch", "patience",
    "test_batches", "save_preds", "pred_format", "postprocess", "tolerance_mm", "sw_batch_size", "skip_even",
}  # fmt: skip
EVALUATION_KEYS = ("tta", "overlap", "blend", "roi_size", "thresholds", "threshold", "part")


@dataclass(frozen=True)
class FoldJob:
    """One fold to train and evaluate.

    Attributes:
        fold: its number.
        folder: of its run.
        cases: names of its validation cases.
        arguments: of `monai.bundle run` besides `run_id`, `resume` and `overwrite`.
        label_maps: the evaluation writes a label map per case.
        model_file: name of the model that is evaluated.
        evaluation: keys of the evaluation, compared with those that its summary holds.
    """

    fold: int
    folder: Path
    cases: tuple[str, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    label_maps: bool = True
    model_file: str = "model.pt"
    evaluation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        return self.folder / self.model_file

    @property
    def command_file(self) -> Path:
        return self.folder / COMMAND_FILE

    @property
    def output_file(self) -> Path:
        return self.folder / OUTPUT_FILE

    def summary(self) -> dict[str, Any]:
        """Summary of the last evaluation."""
        return _read(self.folder / "evaluation" / "summary.json")

    def metrics(self) -> dict[str, Any]:
        """Metrics of the last evaluation, case by case."""
        return _read(self.folder / "evaluation" / "metrics.json")

    def label_map(self, case: str) -> Path:
        """The predicted label map of a validation case, of whichever ending."""
        paths = [self.folder / "evaluation" / f"{case}{ending}" for ending in (".nii.gz", ".png")]
        return next((path for path in paths if path.is_file()), paths[0])

    def has_training(self) -> bool:
        """Whether there is a training to go on with."""
        return any((self.folder / name).is_file() for name in (LAST, PREVIOUS))

    def missing(self) -> str:
        """What is missing for the fold to be finished; empty if its evaluation belongs to the present model."""
        trained, evaluated = self.folder / "metrics.json", self.folder / "evaluation" / "summary.json"
        if not self.model.is_file() or not trained.is_file():
            return "the training" if not self.has_training() else "the rest of the training"
        last = self.folder / LAST
        if last.is_file() and last.stat().st_mtime_ns > trained.stat().st_mtime_ns:
            return "the rest of the training"
        by_hand = not self.command_file.is_file()  # then its keys are the person's affair
        if not by_hand and _decisive(_read(self.folder / DONE_FILE)) != _decisive(self.arguments):
            return "the training with the present keys"
        if not evaluated.is_file() or _read(evaluated).get("model_sha256") != file_sha256(self.model):
            return f"the evaluation of {self.model_file}"
        summary = _read(evaluated)
        if any(_plain(summary[key]) != _plain(value) for key, value in self.evaluation.items() if key in summary):
            return "the evaluation with the present keys"
        if set(self.metrics()) != set(self.cases):
            return "the evaluation of all validation cases"
        if self.label_maps and not all(self.label_map(case).is_file() for case in self.cases):
            return "the predicted label maps"
        return ""

    def changed_keys(self) -> list[str]:
        """Keys that make another training of what this fold was finished with, with their values then and now."""
        before, now = _decisive(_read(self.folder / DONE_FILE)), _decisive(self.arguments)
        if not (self.folder / DONE_FILE).is_file() or not self.has_training():
            return []
        keys = sorted((set(before) | set(now)) - LENGTH_KEYS - set(EVALUATION_KEYS))
        return [
            f"{k} {before.get(k, 'as in the bundle')} -> {now.get(k, 'as in the bundle')}"
            for k in keys
            if before.get(k) != now.get(k)
        ]

    def write_command(self, run_id: str, resume: bool, overwrite: bool) -> Path:
        """Write the `--args_file` of a command for this fold."""
        content = {"run_id": run_id, **self.arguments, "resume": resume, "overwrite": overwrite}
        write_text(self.command_file, json.dumps(content, indent=1, default=str) + "\n")
        return self.command_file

    def note_done(self) -> None:
        """Record that the command ended well, and with which keys."""
        write_text(self.folder / DONE_FILE, json.dumps(dict(self.arguments), indent=1, default=str) + "\n")


class FoldConfig:
    """The config of the running bundle, looked at as that of one fold or another.

    Args:
        config: merged, as the running workflow holds it; expressions are not evaluated yet.
        base_file: the bundle's complete config file.
    """

    def __init__(self, config: Mapping[str, Any], base_file: Path) -> None:
        self.config = dict(config)
        self.base_file = Path(base_file)

    def value(self, key: str, fold: int | str | None = None) -> Any:
        """What a key gives for a fold."""
        changed = {} if fold is None else {"fold": fold}
        return ConfigParser(deepcopy({**self.config, **changed})).get_parsed_content(key)

    def folder(self, fold: int | str) -> Path:
        """Folder of a fold: `output_dir` where that depends on the fold, else a folder in it."""
        given = Path(self.value("output_dir", fold))
        return given if self._folder_depends_on_fold() else given / str(fold)

    def summary_folder(self) -> Path:
        """Where the result of all folds goes: beside the folders of the folds, or what holds them if it was given."""
        return Path(self.value("output_dir", "cross_validation"))

    def _folder_depends_on_fold(self) -> bool:
        return bool(self.value("output_dir", 0) != self.value("output_dir", "cross_validation"))

    def number_of_folds(self) -> int:
        """`nfolds`, or as many as `splits_file` holds.

        Raises:
            InputError: the file cannot be read.
        """
        splits_file = self.value("splits_file") if "splits_file" in self.config else ""
        if not splits_file:
            return int(self.value("nfolds"))
        try:
            return len(json.loads(Path(splits_file).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{splits_file}: file of folds cannot be read ({error}). Cure: correct the path") from None

    def chosen_folds(self) -> list[int]:
        """Folds to train: those of `cv_folds`, all if it is empty.

        Raises:
            InputError: a fold does not exist.
        """
        number = self.number_of_folds()
        given = self.value("cv_folds") if "cv_folds" in self.config else []
        wanted = list(given) if isinstance(given, list | tuple) else [given]
        wrong = [fold for fold in wanted if not isinstance(fold, int) or not 0 <= fold < number]
        if wrong:
            raise InputError(f"--cv_folds {wanted}: there are no folds {wrong}. Cure: folds from 0 to {number - 1}")
        return sorted(set(wanted)) or list(range(number))

    def job(self, fold: int) -> FoldJob:
        """A fold with its cases and its command; reads the description of the dataset, no image.

        Raises:
            InputError: the dataset or the choice of folds breaks a rule.
        """
        cases = self.value("source", fold).fold.val
        folder = self.folder(fold)
        arguments = {
            "config_file": str(self.base_file),
            **self._changes(),
            "fold": fold,
            "output_dir": str(folder),
        }
        if "save_preds" in self.config:
            arguments["save_preds"] = True
        arguments.pop("cv_folds", None)
        if "postprocess" in self.config:  # decided for all folds together
            arguments["postprocess"] = False
        if "save_preds" in self.config and "nii" not in str(self.value("pred_format")):
            arguments["pred_format"] = f"nii+{self.value('pred_format')}"
        evaluation = {key: self.value(key, fold) for key in EVALUATION_KEYS if key in self.config}
        model_file = Path(self.value("ckpt_path", fold)).name if "ckpt_path" in self.config else "model.pt"
        return FoldJob(
            fold, folder, tuple(cases), arguments, "save_preds" in self.config, model_file or "model.pt", evaluation
        )

    def _changes(self) -> dict[str, Any]:
        """Entries of the merged config that differ from the base file: overlays and what was typed."""
        base = ConfigParser()
        base.read_config(str(self.base_file))
        base.parse()
        original = base.get()
        kept = {key: value for key, value in self.config.items() if key != ConfigParser.meta_key}
        return {key: value for key, value in kept.items() if key not in original or original[key] != value}


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is none, so that what depends on it counts as missing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _decisive(arguments: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in arguments.items() if key not in SAME_RESULT_KEYS}
    return json.loads(json.dumps(kept, default=str))
