"""Evaluation of a classifier as files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.atomic_files import write_text
from monai_ext.errors import InputError
from monai_ext.evaluation.calibration import (
    CROSS_FIT_RULE,
    ReliabilityBins,
    brier_score,
    cross_fitted_temperatures,
    fit_temperature,
    negative_log_likelihood,
    reliability_bins,
)
from monai_ext.evaluation.classification_intervals import INTERVAL_RULE, score_intervals
from monai_ext.evaluation.classification_scores import (
    PER_CLASS,
    UNDEFINED_RULE,
    ClassificationScores,
    class_probabilities,
    confusion_matrix,
    label_counts,
)
from monai_ext.evaluation.confusion_picture import compose_confusion, compose_reliability
from monai_ext.evaluation.image_grid import side_by_side
from monai_ext.evaluation.overlay_picture import save_picture

GIVEN_RULE = "Calibration after correction is with a temperature that was fitted on other cases."
LARGEST_RANKING = 3_000_000_000  # draws x cases x classes up to which areas under curves get intervals: a minute
LARGEST_MATRIX = 100
WORST_CASES = 10


def write_classification_report(
    folder: str | Path,
    names: Sequence[str],
    logits: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    multi_label: bool = False,
    about: Mapping[str, Any] | None = None,
    temperature: float | None = None,
    groups: Sequence[str] | None = None,
    bootstrap: int = 1000,
    thresholds: float | Sequence[float] = 0.5,
    seed: int = 0,
) -> dict[str, Any]:
    """Write `summary.json`, `per_class.csv`, `predictions.csv`, `confusion.csv` and `confusion.png`.

    All scores, and the probabilities of `predictions.csv`, are those of the network as it is; a temperature changes
    neither the most probable class nor a multi-label decision at 0.5, only what is reported as calibration "after".

    Args:
        folder: made if it does not exist.
        names: of the N cases.
        logits: `[N, K]`.
        labels: `[N]` class indices, or `[N, K]` of 0 and 1 if `multi_label`.
        classes: K names.
        multi_label: an image may have several classes or none.
        about: further entries of the summary.
        temperature: fitted on other cases; None: cross-fitted on these, see `CROSS_FIT_RULE`.
        groups: of the cases, such as patients; drawn whole, and kept in one half of the cross-fit.
        bootstrap: draws; 0 leaves the intervals out.
        thresholds: of multi-label decisions, one or one per class.
        seed: of bootstrap and halves.

    Returns:
        The summary as written: scores of `ClassificationScores.overall`, `intervals` (score to two bounds), `classes`
        (name to `cases`, `predicted`, the scores of `PER_CLASS` and their `intervals`), `calibration`,
        `confusion_matrix` (up to 100 classes), `confident_errors`. What is undefined is null.

    Raises:
        InputError: no cases, logits that are not finite, or an entry of `about` that would replace a score.
        ValueError: the arrays do not fit each other.
    """
    folder = Path(folder)
    scores = _scored(names, logits, labels, multi_label, thresholds)
    grouping = None if groups is None else np.asarray(groups)
    calibration, bins = _calibration(logits, labels, multi_label, temperature, grouping, seed)
    ranking = len(names) * len(classes) * bootstrap <= LARGEST_RANKING
    intervals = score_intervals(scores, bootstrap, seed, grouping, ranking) if bootstrap else {}
    decided = label_counts(scores.positive, scores.predicted) if multi_label else _confusion(scores)
    summary: dict[str, Any] = {
        "num_cases": len(names),
        "num_groups": None if grouping is None else len(np.unique(grouping)),
        "multi_label": multi_label,
        **{name: _number(values[0]) for name, values in scores.overall().items()},
        "intervals": {name: _pair(bounds) for name, bounds in intervals.items() if name not in PER_CLASS},
        "interval_rule": INTERVAL_RULE if bootstrap else "",
        "bootstrap": bootstrap,
        "undefined_rule": UNDEFINED_RULE,
        "classes": _class_entries(scores, classes, intervals),
        "calibration": calibration,
        "confident_errors": _confident_errors(scores, names, classes),
    }
    if len(classes) <= LARGEST_MATRIX:
        summary["confusion_columns"] = ["tp", "fn", "fp", "tn"] if multi_label else list(classes)
        summary["confusion_matrix"] = decided.tolist()
    taken = sorted(set(about or {}) & set(summary))
    if taken:
        raise InputError(f"report: entries {', '.join(taken)} would replace scores. Cure: rename them")
    summary |= about or {}
    columns = ("tp", "fn", "fp", "tn") if multi_label else tuple(classes)
    rows: list[Sequence[Any]] = [
        ("class", *columns),
        *((c, *r) for c, r in zip(classes, decided.tolist(), strict=True)),
    ]
    write_text(folder / "confusion.csv", _csv(rows))
    write_text(folder / "per_class.csv", _csv(_class_rows(summary["classes"])))
    write_text(folder / "predictions.csv", _csv(_prediction_rows(scores, names, classes)))
    write_text(folder / "metrics.json", json.dumps(_case_scores(scores, names), indent=1, ensure_ascii=False) + "\n")
    title = f"accuracy {100 * summary['accuracy']:.2f} %, {len(names)} cases"
    pictures = [compose_confusion(decided, classes, title, multi_label), compose_reliability(*bins)]
    save_picture(folder / "confusion.png", side_by_side(pictures))
    write_text(folder / "summary.json", json.dumps(summary, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    return summary


def _scored(
    names: Sequence[str],
    logits: np.ndarray,
    labels: np.ndarray,
    multi_label: bool,
    thresholds: float | Sequence[float],
) -> ClassificationScores:
    if not len(names):
        raise InputError("report: there are no cases. Cure: check that the fold or folder holds cases")
    bad = np.flatnonzero(~np.isfinite(logits).all(1)) if logits.ndim == 2 else np.empty(0, int)
    if len(bad):
        listed = ", ".join(names[i] for i in bad[:5])
        raise InputError(
            f"report: the network gives numbers that are not finite for {len(bad)} of {len(names)} cases ({listed}). "
            "Cure: another checkpoint; a training that diverged needs a lower learning rate"
        )
    if len(names) != len(logits):
        raise ValueError(f"{len(names)} names for {len(logits)} cases")
    return ClassificationScores(class_probabilities(logits, multi_label), labels, multi_label, thresholds)


def _calibration(
    logits: np.ndarray,
    labels: np.ndarray,
    multi_label: bool,
    temperature: float | None,
    groups: np.ndarray | None,
    seed: int,
) -> tuple[dict[str, Any], tuple[ReliabilityBins, ReliabilityBins]]:
    cross_fitted = temperature is None
    corrected: float | np.ndarray
    if temperature is None:
        corrected = cross_fitted_temperatures(logits, labels, multi_label, groups, seed)
        temperature = fit_temperature(logits, labels, multi_label)
    else:
        corrected = temperature
    entry: dict[str, Any] = {
        "temperature": temperature,
        "cross_fitted": cross_fitted,
        "rule": CROSS_FIT_RULE if cross_fitted else GIVEN_RULE,
    }
    bins = []
    for name, divisor in (("before", 1.0), ("after", corrected)):
        probabilities = class_probabilities(logits, multi_label, divisor)
        bins.append(reliability_bins(probabilities, labels, multi_label))
        entry[name] = {
            "expected_error": _number(bins[-1].expected_error),
            "brier": brier_score(probabilities, labels, multi_label),
            "nll": negative_log_likelihood(logits, labels, multi_label, divisor),
            "bins": {
                "cases": list(bins[-1].count),
                "confidence": [_number(value) for value in bins[-1].confidence],
                "accuracy": [_number(value) for value in bins[-1].accuracy],
            },
        }
    return entry, (bins[0], bins[1])


def _case_scores(scores: ClassificationScores, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Per case whether it was decided rightly, and its loss; what paired comparisons of two models look at."""
    given = np.where(scores.positive, scores.probabilities, 1 - scores.probabilities if scores.multi_label else 1.0)
    loss = -np.log(np.maximum(given, np.finfo(float).tiny)).sum(1)
    right = (scores.positive == scores.predicted).all(1)
    return {
        n: {"correct": float(r), "log_loss": round(float(v), 6)} for n, r, v in zip(names, right, loss, strict=True)
    }


def _confusion(scores: ClassificationScores) -> np.ndarray:
    return confusion_matrix(scores.labels, scores.chosen, scores.num_classes)


def _class_entries(
    scores: ClassificationScores, classes: Sequence[str], intervals: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, dict[str, Any]]:
    values = scores.per_class()
    cases, predicted = scores.positive.sum(0), scores.predicted.sum(0)
    return {
        name: {
            "cases": int(cases[k]),
            "predicted": int(predicted[k]),
            **{score: _number(values[score][0, k]) for score in PER_CLASS},
            "intervals": {
                score: _pair((intervals[score][0][k], intervals[score][1][k]))
                for score in PER_CLASS
                if score in intervals
            },
        }
        for k, name in enumerate(classes)
    }


def _class_rows(entries: Mapping[str, Mapping[str, Any]]) -> list[Sequence[Any]]:
    bounds = [(score, side) for score in PER_CLASS for side in (0, 1)]
    header = [
        "class",
        "cases",
        "predicted",
        *PER_CLASS,
        *(f"{score}_{('low', 'high')[side]}" for score, side in bounds),
    ]
    rows: list[Sequence[Any]] = [header]
    for name, entry in entries.items():
        pairs = entry["intervals"]
        sides = [pairs[score][side] if pairs.get(score) else None for score, side in bounds]
        rows.append([name, entry["cases"], entry["predicted"], *(entry[score] for score in PER_CLASS), *sides])
    return rows


def _prediction_rows(scores: ClassificationScores, names: Sequence[str], classes: Sequence[str]) -> list[Sequence[Any]]:
    rows: list[Sequence[Any]] = [("name", "label", "predicted", "right", *(f"p_{name}" for name in classes))]
    right = (scores.positive == scores.predicted).all(1)
    for i, name in enumerate(names):
        given, decided = (_labels(flags[i], classes) for flags in (scores.positive, scores.predicted))
        probabilities = (f"{value:.6g}" for value in scores.probabilities[i])
        rows.append((name, given, decided, int(right[i]), *probabilities))
    return rows


def _confident_errors(
    scores: ClassificationScores, names: Sequence[str], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Cases in which the wrong decision was surest, surest first: often a wrong label."""
    wrong = scores.positive != scores.predicted
    certainty = np.where(scores.predicted, scores.probabilities, 1 - scores.probabilities)
    if not scores.multi_label:
        wrong = wrong & scores.predicted
    surest = np.where(wrong, certainty, -1.0).max(1)
    order = [int(i) for i in np.argsort(-surest, kind="stable")[:WORST_CASES] if surest[i] >= 0]
    return [
        {
            "case": names[i],
            "label": _labels(scores.positive[i], classes),
            "predicted": _labels(scores.predicted[i], classes),
            "certainty": float(surest[i]),
        }
        for i in order
    ]


def _labels(flags: np.ndarray, classes: Sequence[str]) -> str:
    return ";".join(name for name, flag in zip(classes, flags, strict=True) if flag)


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _pair(bounds: tuple[Any, Any]) -> list[float] | None:
    low, high = (_number(bound) for bound in bounds)
    return None if low is None or high is None else [low, high]
