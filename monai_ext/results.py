"""Measured results as rows of a CSV file, and the tables of the READMEs that are filled from them."""

from __future__ import annotations

import csv
import io
import json
import platform
import re
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from monai_ext.atomic_files import write_text
from monai_ext.errors import InputError
from monai_ext.evaluation.slice_report import SLICE_SCORES, STACK_SCORES

FIRST = ("recipe", "dataset", "fold", "cases", "training_minutes", "steps")
LAST = ("device", "torch", "monai", "commit", "date", "command")
COLUMNS = (*FIRST, "class_dice", "mean_dice", "surface_dice_1mm", "hd95_mm", *LAST)
SLICE_COLUMNS = (*FIRST, *SLICE_SCORES, *STACK_SCORES, *LAST)  # of EM bundles
CLASS_SCORES = (
    "accuracy",
    "accuracy_95",
    "balanced_accuracy",
    "macro_roc_auc",
    "calibration_error",
    "calibration_error_corrected",
    "class_recall",
)
CLASS_COLUMNS = (*FIRST, *CLASS_SCORES, *LAST)  # of classification bundles
INSTANCE_SCORES = (
    "mask_ap50",
    "mask_ap",
    "box_ap",
    "nuclei_ap50",
    "nuclei_ap80",
    "nuclei_ap_per_image",
    "nuclei_f1_50",
    "nuclei_pq",
    "nuclei_aji",
)
INSTANCE_COLUMNS = (*FIRST, *INSTANCE_SCORES, *LAST)  # of instance segmentation bundles
TABLE = re.compile(r"(<!-- results: (?P<file>\S+) -->\n).*?(<!-- end of results -->)", re.DOTALL)

SELECTION = re.compile(r"(<!-- rows: (?P<file>\S+): (?P<columns>[^>]+) -->\n).*?(<!-- end of rows -->)", re.DOTALL)


def device_name() -> str:
    """Name of the GPU, or processor and thread count."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = re.findall(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        model = names[0] if names else model
    return f"{model}, {torch.get_num_threads()} threads"


def commit(repository: Path) -> str:
    """Checked-out commit (or tag) of a folder, with `+` if files differ from it; `unknown` outside a repository."""
    try:
        head = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=10"],
            cwd=repository,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip()


def result_row(run: Path, command: str, recipe: str = "train.json") -> dict[str, Any]:
    """One row from a finished training and its evaluation, recorded on the machine and commit of the training.

    `recipe` names the config or overlay that was trained with.

    Raises:
        InputError: the folder lacks the files of a training or of an evaluation.
    """
    files = [run / "metrics.json", run / "plan.json", run / "evaluation" / "summary.json"]
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise InputError(f"{run}: lacks {', '.join(missing)}. Cure: run train_and_evaluate first")
    training, plan, summary = (json.loads(path.read_text(encoding="utf-8")) for path in files)
    return {
        "recipe": recipe,
        "dataset": plan["dataset"],
        "fold": summary["fold"],
        "cases": summary["num_images"] if "num_images" in summary else summary["num_cases"],
        "training_minutes": f"{training['training_minutes']:.1f}",
        "steps": training["iterations"],
        **_scores(summary),
        "device": device_name(),
        "torch": version("torch"),
        "monai": version("monai"),
        "commit": commit(Path(__file__).parent),
        "date": date.today().isoformat(),
        "command": command,
    }


def _scores(summary: dict[str, Any]) -> dict[str, str]:
    if "soft_dice" in summary:
        return _slice_scores(summary)
    if "nuclei_ap50" in summary:
        return {name: _four(summary[name]) for name in INSTANCE_SCORES}
    return _classification_scores(summary) if "balanced_accuracy" in summary else _segmentation_scores(summary)


def _segmentation_scores(summary: dict[str, Any]) -> dict[str, str]:
    means = summary["foreground_mean"]
    class_dice = ", ".join(f"{name} {values['dice']['mean']:.4f}" for name, values in summary["classes"].items())
    return {
        "class_dice": class_dice,
        "mean_dice": f"{means['dice']:.4f}",
        "surface_dice_1mm": f"{means['surface_dice']:.4f}",
        "hd95_mm": f"{means['hd95_mm']:.2f}",
    }


def _slice_scores(summary: dict[str, Any]) -> dict[str, str]:
    return {name: f"{summary[name]:.4f}" for name in (*SLICE_SCORES, *STACK_SCORES)}


def _classification_scores(summary: dict[str, Any]) -> dict[str, str]:
    bounds = summary["intervals"].get("accuracy")
    recalls = ", ".join(f"{name} {_four(entry['sensitivity'])}" for name, entry in summary["classes"].items())
    values = (
        _four(summary["accuracy"]),
        f"{_four(bounds[0])} to {_four(bounds[1])}" if bounds else "-",
        _four(summary["balanced_accuracy"]),
        _four(summary["macro_roc_auc"]),
        *(_four(summary["calibration"][when]["expected_error"]) for when in ("before", "after")),
        recalls,
    )
    return dict(zip(CLASS_SCORES, values, strict=True))


def _four(value: float | None) -> str:
    """Four digits, `-` for what is undefined."""
    return "-" if value is None else f"{value:.4f}"


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append a row to a result file; the file is made with its header if it does not exist.

    Raises:
        InputError: the file has other columns.
    """
    rows = read_rows(path) if path.exists() else []
    if rows and set(rows[0]) != set(row):
        raise InputError(f"{path}: holds results of another kind of bundle. Cure: another result file")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    writer.writeheader()
    writer.writerows([*rows, row])
    write_text(path, text.getvalue())


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a result file.

    Raises:
        InputError: the file is missing or has other columns.
    """
    if not path.is_file():
        raise InputError(f"{path}: result file not found. Cure: `python -m monai_ext record` writes it")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) not in (COLUMNS, SLICE_COLUMNS, CLASS_COLUMNS, INSTANCE_COLUMNS):
            raise InputError(f"{path}: has columns {reader.fieldnames}, not {list(COLUMNS)}. Cure: restore the file")
        return list(reader)


def markdown_table(rows: list[dict[str, str]]) -> str:
    """Markdown table of result rows, followed by the commands."""
    shown = [name for name in rows[0] if name != "command"] if rows else []
    lines = ["| " + " | ".join(name.replace("_", " ") for name in shown) + " |", "|" + " --- |" * len(shown)]
    lines += ["| " + " | ".join(row[name] for name in shown) + " |" for row in rows]
    commands = dict.fromkeys(row["command"] for row in rows)
    return "\n".join([*lines, "", *(f"    {line}" for line in commands)]) + "\n"


def selected_columns(path: Path, columns: list[str]) -> str:
    """Markdown table of some columns of any CSV file.

    Raises:
        InputError: the file or a column is missing.
    """
    if not path.is_file():
        raise InputError(f"{path}: not found. Cure: restore the file, or take its table out of the document")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    missing = [name for name in columns if rows and name not in rows[0]]
    if missing:
        raise InputError(f"{path}: has no columns {missing}, only {list(rows[0])}. Cure: correct the document")
    lines = ["| " + " | ".join(name.replace("_", " ") for name in columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row[name] for name in columns) + " |" for row in rows]) + "\n"


def fill_tables(document: Path) -> int:
    """Rewrite the tables of a Markdown file from the CSV files they name; return their number.

    A table stands between `<!-- results: FILE -->` and `<!-- end of results -->` (all columns of a result file), or
    between `<!-- rows: FILE: column, column -->` and `<!-- end of rows -->` (those columns of any CSV file).

    Raises:
        InputError: the document or a result file is missing.
    """
    if not document.is_file():
        raise InputError(f"{document}: not found. Cure: give a Markdown file")
    text = document.read_text(encoding="utf-8")

    def table(match: re.Match[str]) -> str:
        return match[1] + "\n" + markdown_table(read_rows(document.parent / match["file"])) + "\n" + match[3]

    def selection(match: re.Match[str]) -> str:
        columns = [name.strip() for name in match["columns"].split(",")]
        return match[1] + "\n" + selected_columns(document.parent / match["file"], columns) + "\n" + match[4]

    filled, count = TABLE.subn(table, text)
    filled, selections = SELECTION.subn(selection, filled)
    if filled != text:
        write_text(document, filled)
    return count + selections
