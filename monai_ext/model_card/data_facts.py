"""What is known of a dataset when a training begins, for the record of the run; of every bundle in the same form.

The entries are `stated` (what the dataset's own files say of origin and licence), `licence_files`, `cases` (of
each part), `properties` (name to value), `classes` (a table: `columns` and `rows`), `groups` (number of groups, such as
patients, that splits keep together; left out where it is not known here) and `warnings`.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_ext.errors import InputError
from monai_ext.planning.fingerprint import Fingerprint

if TYPE_CHECKING:
    from monai_ext.datasets.folds import Fold
    from monai_ext.datasets.segmentation_dataset import SegmentationDataset
    from monai_ext.engines.class_source import ClassSource
    from monai_ext.engines.em_preparation import EmSource
    from monai_ext.engines.instance_source import InstanceSource

logger = logging.getLogger(__name__)
STATED = {
    "description": "description",
    "reference": "reference",
    "licence": "licence",
    "license": "licence",
    "release": "release",
    "version": "release",
    "contributor": "contributor",
    "url": "url",
}
LONGEST = 300  # characters of what a dataset's file states
MOST_WARNINGS = 10


def segmentation_facts(dataset: SegmentationDataset, fold: Fold, fingerprint_file: Path) -> dict[str, Any]:
    """Facts about a dataset with `dataset.json`.

    Args:
        dataset: that is trained on.
        fold: its training and validation cases.
        fingerprint_file: that planning has left in the store; without it sizes and classes are unknown.
    """
    facts = _facts(dataset.root, {"training": len(fold.train), "validation": len(fold.val)})
    facts["cases"]["without labels"] = len(dataset.test)
    facts["properties"] = {
        "channels": list(dataset.channels),
        "labels": dataset.labels,
        "dimensions": dataset.spatial_dims,
        "ignore label": dataset.ignore_label,
    }
    fingerprint = _fingerprint(fingerprint_file, [case.name for case in dataset.training])
    if fingerprint is None:
        return facts
    shapes, spacings = ([getattr(case, name) for case in fingerprint.cases] for name in ("shape", "spacing"))
    facts["properties"] |= {
        "size (voxels): least, median, largest per axis": _spread(shapes),
        "spacing (mm): least, median, largest per axis": _spread(spacings),
        "share of an image that the foreground crop keeps, median": fingerprint.median_relative_size,
    }
    rows = []
    for name, value in dataset.labels.items():
        if value == fingerprint.ignore_label or any(value >= len(case.class_voxels) for case in fingerprint.cases):
            continue
        voxels = [case.class_voxels[value] for case in fingerprint.cases]
        share = sum(voxels) / max(1, sum(sum(case.class_voxels) for case in fingerprint.cases))
        rows.append(
            [name, sum(count > 0 for count in voxels), statistics.median(voxels), min(voxels), max(voxels), share]
        )
    columns = ["class", "cases with it", "median voxels", "least", "largest", "share of all voxels"]
    facts["classes"] = {"columns": columns, "rows": rows}
    return facts


def em_facts(source: EmSource) -> dict[str, Any]:
    """Facts about a stack of slices of electron microscopy."""
    images, labels = source.stack.images, source.stack.labels
    facts = _facts(source.stack.folder, _counts(source.fold))
    facts["cases"]["without labels"] = len(source.stack.test)
    facts["properties"] = {
        "labelled slices": len(images),
        "size of a slice (pixels: y, x)": list(images.shape[1:]),
        "grey values": f"{images.dtype}, {float(images.min()):g} to {float(images.max()):g}",
    }
    share = float(labels.mean(dtype=float))
    facts["classes"] = {
        "columns": ["class", "share of the labelled pixels"],
        "rows": [["membrane", 1 - share], ["background", share]],
    }
    return facts


def class_facts(source: ClassSource) -> dict[str, Any]:
    """Facts about a dataset of images with classes."""
    report = source.report
    facts = _facts(source.dataset.root, _counts(source.fold))
    parts = list(report.counts)
    facts["properties"] = {
        "kinds of files": dict(report.kinds),
        "channels": report.channels,
        "size of images: smallest": list(report.smallest),
        "size of images: median": list(report.median_size),
        "size of images: largest": list(report.largest),
        "values that become the range of the network": list(report.value_range),
        "labels per image": "several or none" if source.dataset.multi_label else "one",
        "sets of images with equal content": len(report.duplicates),
        "images left out because they cannot be read": len(report.skipped),
    }
    facts["classes"] = {
        "columns": ["class", *(f"{part} images" if part else "images" for part in parts)],
        "rows": [[name, *(report.counts[part][i] for part in parts)] for i, name in enumerate(report.classes)],
    }
    facts["groups"] = len(set(source.groups.values()))
    facts["warnings"] = list(report.warnings)[:MOST_WARNINGS]
    return facts


def instance_facts(source: InstanceSource) -> dict[str, Any]:
    """Facts about a dataset of images with objects."""
    report = source.report
    facts = _facts(source.dataset.root, _counts(source.fold))
    facts["properties"] = {
        "images of each part": {part or "images": count for part, count in report.images.items()},
        "objects of each part": {part or "images": count for part, count in report.objects.items()},
        "images without object": sum(report.empty_images.values()),
        "crowd regions": report.crowds,
        "kinds of files": dict(source.images.kinds),
        "size of images: smallest": list(source.images.smallest),
        "size of images: median": list(source.images.median_size),
        "size of images: largest": list(source.images.largest),
        "objects per image at percentiles 1, 5, 25, 50, 75, 95, 99, 100": _list(report.per_image),
        "square root of the area of boxes (pixels) at these percentiles": _list(report.box_edges),
        "height / width of boxes at these percentiles": _list(report.aspects),
    }
    rows = [[name, count] for name, count in report.class_objects.items()]
    facts["classes"] = {"columns": ["class", "objects"], "rows": rows}
    facts["groups"] = len(set(source.groups.values()))
    facts["warnings"] = list(report.warnings)[:MOST_WARNINGS]
    return facts


def _facts(root: Path, cases: dict[str, int]) -> dict[str, Any]:
    return {
        "stated": _stated(root),
        "licence_files": sorted(path.name for path in root.iterdir() if _is_licence(path))[:5] if root.is_dir() else [],
        "cases": cases,
        "properties": {},
        "classes": {"columns": [], "rows": []},
        "warnings": [],
    }


def _counts(fold: Fold) -> dict[str, int]:
    return {"training": len(fold.train), "validation": len(fold.val)}


def _is_licence(path: Path) -> bool:
    return path.is_file() and path.stem.lower().replace("data_", "") in ("license", "licence", "copying")


def _stated(root: Path) -> dict[str, str]:
    """What `dataset.json`, if there is one, says of where the data come from and how they may be used."""
    try:
        content = json.loads((root / "dataset.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    found: dict[str, str] = {}
    for field, name in STATED.items():
        value = content.get(field)
        if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value).strip():
            found.setdefault(name, str(value).strip()[:LONGEST])
    return found


def _fingerprint(path: Path, cases: Sequence[str]) -> Fingerprint | None:
    """The fingerprint in a store, if it is that of these cases."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))["fingerprint"]
        found = Fingerprint.from_json(json.dumps(content))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, InputError):
        return None
    return found if {case.name for case in found.cases} == set(cases) and found.cases else None


def _spread(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    axes = list(zip(*rows, strict=True))
    return [[pick(axis) for axis in axes] for pick in (min, statistics.median, max)]


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
