"""From the metrics of many cases to a summary, files for other programs and a table for the terminal."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.atomic_files import write_text
from monai_ext.errors import InputError
from monai_ext.evaluation.segmentation_metrics import ClassMetrics

ABSENT_CLASSES_RULE = (
    "A class absent from the reference scores Dice and surface Dice 1 if it is also absent from the prediction, "
    "else 0. HD95 is undefined where the class is absent from either; such cases are left out of its mean and counted."
)
SCORES = ("dice", "surface_dice", "hd95_mm")
COUNTS = ("tp", "fp", "fn", "reference_voxels", "predicted_voxels")
WORST_CASES = 5

Cases = Mapping[str, Mapping[str, ClassMetrics]]


def summarize(cases: Cases) -> dict[str, Any]:
    """Summary of the metrics of many cases.

    Args:
        cases: case name to the result of `case_metrics`.

    Returns:
        JSON-able dict:

        - `num_cases`, `absent_classes_rule`;
        - `classes`: per class and score `mean`, `std` (population), `median`, `min`, `max`, `n` (values in the mean)
          and `undefined`, and for the Dice scores also `mean_where_present` (cases whose reference holds the class);
          how many cases lack the class in the reference, the prediction or both; the voxel counts summed;
        - `foreground_mean`: per score, the mean over classes of their means;
        - `worst_cases`: the cases with the lowest mean Dice, lowest first.

    Raises:
        InputError: no cases.
    """
    if not cases:
        raise InputError("report: there are no cases to summarize. Cure: check that the fold or folder holds cases")
    names = list(dict.fromkeys(name for metrics in cases.values() for name in metrics))
    classes = {name: _class_summary([m[name] for m in cases.values() if name in m]) for name in names}
    case_means = {case: _mean(m["dice"] for m in metrics.values()) for case, metrics in cases.items()}
    ranked = sorted((mean, case) for case, mean in case_means.items() if mean is not None)
    return {
        "num_cases": len(cases),
        "absent_classes_rule": ABSENT_CLASSES_RULE,
        "classes": classes,
        "foreground_mean": {score: _mean(summary[score]["mean"] for summary in classes.values()) for score in SCORES},
        "worst_cases": [
            {"case": case, "dice": mean, "class_dice": {name: m["dice"] for name, m in cases[case].items()}}
            for mean, case in ranked[:WORST_CASES]
        ],
    }


def write_report(folder: Path, cases: Cases, extras: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write `metrics.json` (case, class, metric), `metrics.csv` (a row per case and class) and `summary.json`.

    Each file is complete or absent: it is written beside its place and then renamed. JSON is strict: what is not
    finite becomes null.

    Args:
        folder: where the files go; made if it does not exist.
        cases: case name to the result of `case_metrics`.
        extras: further entries of the summary, such as the plan's name or the number of folds.

    Returns:
        The summary as written.

    Raises:
        InputError: no cases, or an extra that has the name of an entry of the summary.
    """
    summary = summarize(cases)
    taken = sorted(set(extras or {}) & set(summary))
    if taken:
        raise InputError(f"report: extras would replace {', '.join(taken)} of the summary. Cure: rename them")
    summary = _strict({**summary, **(extras or {})})
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "metrics.json", _json(_strict(cases)))
    write_text(folder / "metrics.csv", _csv(cases))
    write_text(folder / "summary.json", _json(summary))
    return summary


def format_table(summary: Mapping[str, Any]) -> str:
    """Text table of a summary: a line per class, their mean, and the rule for absent classes."""
    header = ("class", "Dice", "std", "min", "surface Dice", "HD95 mm", "n")
    rows = [
        (
            name,
            _number(c["dice"]["mean"], 4),
            _number(c["dice"]["std"], 4),
            _number(c["dice"]["min"], 4),
            _number(c["surface_dice"]["mean"], 4),
            _number(c["hd95_mm"]["mean"], 2) + (f" ({c['hd95_mm']['n']})" if c["hd95_mm"]["undefined"] else ""),
            str(c["dice"]["n"]),
        )
        for name, c in summary["classes"].items()
    ]
    means = summary["foreground_mean"]
    last = (
        "mean",
        _number(means["dice"], 4),
        "",
        "",
        _number(means["surface_dice"], 4),
        _number(means["hd95_mm"], 2),
        str(summary["num_cases"]),
    )
    widths = [max(len(row[i]) for row in (header, *rows, last)) for i in range(len(header))]
    rule = "  ".join("-" * width for width in widths)
    lines = [_line(header, widths), rule, *(_line(row, widths) for row in rows), rule, _line(last, widths)]
    if any(c["hd95_mm"]["undefined"] for c in summary["classes"].values()):
        lines.append("(n) behind HD95: number of cases where it is defined")
    return "\n".join([*lines, summary["absent_classes_rule"]])


def _class_summary(values: Sequence[ClassMetrics]) -> dict[str, Any]:
    in_reference = [m["reference_voxels"] > 0 for m in values]
    in_prediction = [m["predicted_voxels"] > 0 for m in values]
    summary: dict[str, Any] = {
        "dice": _statistics([m["dice"] for m in values]),
        "surface_dice": _statistics([m["surface_dice"] for m in values]),
        "hd95_mm": _statistics([m["hd95_mm"] for m in values]),
        "cases": len(values),
        "absent_from_reference": in_reference.count(False),
        "absent_from_prediction": in_prediction.count(False),
        "absent_from_both": sum(not r and not p for r, p in zip(in_reference, in_prediction, strict=True)),
        "tp": sum(m["tp"] for m in values),
        "fp": sum(m["fp"] for m in values),
        "fn": sum(m["fn"] for m in values),
    }
    present = [m for m, there in zip(values, in_reference, strict=True) if there]
    summary["dice"]["mean_where_present"] = _mean(m["dice"] for m in present)
    summary["surface_dice"]["mean_where_present"] = _mean(m["surface_dice"] for m in present)
    return summary


def _statistics(values: Sequence[float | None]) -> dict[str, Any]:
    defined = [value for value in values if value is not None]
    statistic: dict[str, Any] = dict.fromkeys(("mean", "std", "median", "min", "max"))
    if defined:
        statistic = {
            "mean": statistics.fmean(defined),
            "std": statistics.pstdev(defined),
            "median": statistics.median(defined),
            "min": min(defined),
            "max": max(defined),
        }
    return {**statistic, "n": len(defined), "undefined": len(values) - len(defined)}


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return statistics.fmean(defined) if defined else None


def _strict(value: Any) -> Any:
    """The same value in types that strict JSON can hold: no NaN, no infinity, no numpy, no paths."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _strict(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, np.generic):
        return _strict(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _csv(cases: Cases) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ("case", "class", *SCORES, *COUNTS), lineterminator="\n")
    writer.writeheader()
    for case, metrics in cases.items():
        for name, values in metrics.items():
            writer.writerow({"case": case, "class": name, **values})
    return text.getvalue()


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()
