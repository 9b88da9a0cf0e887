"""Evaluation of an instance segmentation as files."""

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
from monai_ext.evaluation.coco_ap import COCO_SIZES, NUCLEI_SIZES, RECALLS
from monai_ext.evaluation.coco_ap import THRESHOLDS as COCO_THRESHOLDS
from monai_ext.evaluation.instance_collection import SCORE_THRESHOLDS, InstanceCollection
from monai_ext.evaluation.instance_scores import DEFINITIONS, Counts, overall_scores

REPORT_FILES = ("summary.json", "per_image.csv", "per_class.csv", "by_score_threshold.csv")
UNDEFINED_RULE = "null: there is nothing to measure, such as AP of a class or size without annotated objects"
THRESHOLD_RULE = (
    "the best label_threshold on these images; chosen and scored on the same images it flatters: choose it on "
    "validation images, report it on others"
)
COCO_DEFINITIONS = {
    "mask_ap": "COCO: precision averaged over 101 recalls of all images pooled by score, over intersections over union "
    "of 0.50 to 0.95 and over classes; mask_ap50 and mask_ap75 at one of them; of all detections, not of the label map",
    "box_ap": "the same of boxes",
    "mask_ar_N": "recall with at most N detections per image and class, averaged over intersections over union and "
    "classes; by size with the largest N",
    "sizes": "by number of pixels of the annotated mask; small below 32 x 32, medium to 96 x 96, large above; "
    "8_to_16px: as large as squares of these sides",
}
IMAGE_SCORES = ("ap", "ap50", "ap75", "ap80", "ap90", "f1_50", "pq", "sq", "rq", "aji", "dice")
THRESHOLD_COLUMNS = (
    "score_threshold",
    "nuclei_ap50",
    "nuclei_ap50_per_image",
    "nuclei_f1_50",
    "nuclei_ap",
    "nuclei_ap_per_image",
    "nuclei_ap75",
    "nuclei_ap80",
    "nuclei_ap90",
    "nuclei_pq",
    "nuclei_aji",
    "nuclei_dice",
    "nuclei_count_error",
    "nuclei_count_bias",
)
CHOSEN_BY = ("nuclei_ap50", "nuclei_ap_per_image", "nuclei_f1_50")


def write_instance_report(
    folder: str | Path,
    collection: InstanceCollection,
    classes: Sequence[str],
    about: Mapping[str, Any] | None = None,
    thresholds: Sequence[float] = SCORE_THRESHOLDS,
) -> dict[str, Any]:
    """Write `summary.json`, `per_image.csv`, `per_class.csv`, `by_score_threshold.csv`, and `metrics.json`.

    The last one holds the scores of each image, as in `per_image.csv`, for the cross-validation and other programs.

    Args:
        folder: made if it does not exist.
        collection: of the images.
        classes: K names.
        about: further entries of the summary.
        thresholds: scores from which detections are painted, for the table; at least those that were painted.

    Returns:
        The summary as written: scores of `InstanceCollection.overall`, `classes`, `by_score_threshold`,
        `best_score_threshold`, `definitions`. What is undefined is null.

    Raises:
        InputError: no images, or an entry of `about` that would replace a score.
    """
    folder = Path(folder)
    if not collection.detections:
        raise InputError("report: there are no images. Cure: check that the fold or folder holds images")
    counts = collection.maps.counts(collection.label_threshold)
    table = collection.maps.by_threshold(thresholds)
    summary: dict[str, Any] = {
        "num_images": len(counts),
        "num_objects": sum(one.references for one in counts.values()),
        "num_detections": sum(collection.detections.values()),
        "num_painted": sum(one.predictions for one in counts.values()),
        "label_threshold": collection.label_threshold,
        "min_area": collection.min_area,
        "max_detections": list(collection.coco.max_detections),
        "detections_cut": collection.coco.cut,
        "iou_thresholds": COCO_THRESHOLDS.round(2).tolist(),
        "recall_points": len(RECALLS),
        "sizes": {name: list(ends) for name, ends in (COCO_SIZES | NUCLEI_SIZES).items() if name != "all"},
        **{name: _number(value) for name, value in collection.overall().items()},
        "classes": _class_entries(collection, classes),
        "by_score_threshold": [{name: _number(row[name]) for name in THRESHOLD_COLUMNS} for row in table],
        "best_score_threshold": {name: _best(table, name) for name in CHOSEN_BY},
        "best_score_threshold_rule": THRESHOLD_RULE,
        "undefined_rule": UNDEFINED_RULE,
        "definitions": COCO_DEFINITIONS | DEFINITIONS,
    }
    taken = sorted(set(about or {}) & set(summary))
    if taken:
        raise InputError(f"report: entries {', '.join(taken)} would replace scores. Cure: rename them")
    summary |= about or {}
    images = _image_rows(collection, counts)
    write_text(folder / "per_image.csv", _csv(images))
    write_text(folder / "metrics.json", json.dumps(_named_rows(images), indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "per_class.csv", _csv(_class_rows(summary["classes"])))
    rows = [THRESHOLD_COLUMNS, *([_cell(row[name]) for name in THRESHOLD_COLUMNS] for row in table)]
    write_text(folder / "by_score_threshold.csv", _csv(rows))
    write_text(folder / "summary.json", json.dumps(summary, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    return summary


def ranked_images(collection: InstanceCollection) -> list[str]:
    """Names of images that hold anything, the best first: by AP from 0.5 to 0.95 of the label map, then by name."""
    counts = collection.maps.counts(collection.label_threshold)
    scores = {name: one.scores()["ap"] for name, one in counts.items()}
    return sorted((name for name in scores if not math.isnan(scores[name])), key=lambda name: (-scores[name], name))


def best_median_worst(names: Sequence[str], each: int) -> dict[str, str]:
    """Name to `best`, `median` or `worst`, `each` of them from a ranking; no image twice."""
    count = len(names)
    each = min(each, max(1, count // 2))  # of two images one is the worst
    middle = max(0, (count - each) // 2)
    places = {
        "best": range(min(each, count)),
        "median": range(middle, min(middle + each, count)),
        "worst": range(max(0, count - each), count),
    }
    # of few images an extreme is more telling than the middle
    chosen = {names[i]: rank for rank in ("median", "worst", "best") for i in places[rank]}
    return {name: chosen[name] for name in names if name in chosen}


def _class_entries(collection: InstanceCollection, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    scores = collection.per_class()
    entries = {}
    for k, name in enumerate(classes):
        counts = collection.maps.counts(collection.label_threshold, k + 1)
        pooled = overall_scores(counts)
        entries[name] = {
            "objects": sum(one.references for one in counts.values()),
            "painted": sum(one.predictions for one in counts.values()),
            **{score: _number(values[k]) for score, values in scores.items()},
            **{f"nuclei_{score}": _number(pooled.get(f"nuclei_{score}", math.nan)) for score in IMAGE_SCORES},
        }
    return entries


def _class_rows(entries: Mapping[str, Mapping[str, Any]]) -> list[Sequence[Any]]:
    columns = list(next(iter(entries.values())))
    return [("class", *columns), *((name, *(_cell(e[c]) for c in columns)) for name, e in entries.items())]


def _image_rows(collection: InstanceCollection, counts: Mapping[str, Counts]) -> list[Sequence[Any]]:
    rows: list[Sequence[Any]] = [("image", "objects", "painted", "count_error", "detections", *IMAGE_SCORES)]
    for name, one in counts.items():
        scores = one.scores()
        difference = one.predictions - one.references
        numbers = (one.references, one.predictions, difference, collection.detections[name])
        rows.append((name, *numbers, *(_cell(scores[score]) for score in IMAGE_SCORES)))
    return rows


def _named_rows(rows: Sequence[Sequence[Any]]) -> dict[str, dict[str, float | None]]:
    """Numbers by column and name of the row; None where the cell is empty."""
    columns = rows[0][1:]
    return {
        str(name): dict(zip(columns, (None if cell == "" else float(cell) for cell in cells), strict=True))
        for name, *cells in rows[1:]
    }


def _best(table: Sequence[Mapping[str, float]], name: str) -> dict[str, float] | None:
    """The threshold at which a score is best, the lowest of several; None where it is undefined."""
    defined = [row for row in table if math.isfinite(row[name])]
    if not defined:
        return None
    best = max(defined, key=lambda row: row[name])
    return {"score_threshold": best["score_threshold"], name: best[name]}


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Undefined values leave a cell empty."""
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return value


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
