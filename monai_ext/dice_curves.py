"""Validation Dice over minutes of several trainings: a CSV file that grows run by run, and its picture."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from monai_ext.atomic_files import replacing, write_text
from monai_ext.errors import InputError

COLUMNS = ("run", "minutes", "steps", "mean_dice")


def validations(log_file: Path) -> list[dict[str, Any]]:
    """Minutes, steps and mean Dice of every validation that a training logged.

    Raises:
        InputError: the file is missing or holds no validation.
    """
    if not log_file.is_file():
        raise InputError(f"{log_file}: not found. Cure: give the log.jsonl of a training")
    rows = [json.loads(line) for line in log_file.read_text(encoding="utf-8").splitlines()]
    points = [
        {"minutes": round(row["minutes"], 3), "steps": row["iteration"], "mean_dice": round(row["mean_dice"], 4)}
        for row in rows
        if "mean_dice" in row
    ]
    if not points:
        raise InputError(f"{log_file}: no epoch was validated. Cure: a longer training, or a smaller val_interval")
    return points


def add_curve(curves: Path, name: str, log_file: Path) -> int:
    """Put the validations of a training into the CSV file, in place of an earlier run of that name.

    Returns:
        Number of points.

    Raises:
        InputError: the log cannot be used, or the CSV file has other columns.
    """
    points = [{"run": name, **point} for point in validations(log_file)]
    kept = [row for row in read_curves(curves) if row["run"] != name] if curves.exists() else []
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*kept, *points])
    write_text(curves, text.getvalue())
    return len(points)


def read_curves(curves: Path) -> list[dict[str, str]]:
    """Rows of the CSV file.

    Raises:
        InputError: it is missing or has other columns.
    """
    if not curves.is_file():
        raise InputError(f"{curves}: not found. Cure: add a curve first")
    with curves.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise InputError(f"{curves}: has columns {reader.fieldnames}, not {list(COLUMNS)}. Cure: restore the file")
        return list(reader)


def draw_curves(curves: Path, picture: Path, title: str = "") -> None:
    """Draw the curves of a CSV file; runs of one point are drawn as a mark.

    Raises:
        InputError: the CSV file cannot be used, or matplotlib is not installed.
    """
    rows = read_curves(curves)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("pictures of curves need matplotlib. Cure: pip install matplotlib") from error
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name in dict.fromkeys(row["run"] for row in rows):
        points = [(float(row["minutes"]), float(row["mean_dice"])) for row in rows if row["run"] == name]
        x, y = zip(*sorted(points), strict=True)
        axes.plot(x, y, marker="o", markersize=4 if len(points) < 30 else 2, label=f"{name} ({y[-1]:.3f})")
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("mean foreground Dice of the validation cases")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    axes.set_title(title)
    with replacing(picture) as partial:
        figure.savefig(partial, format="png")
