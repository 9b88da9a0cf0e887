"""Whether predictions of a packed bundle's test case are those that were expected."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image

from monai_ext.datasets.em_stack import read_em_images
from monai_ext.errors import InputError

# another processor sums in another order: probabilities move by 1e-6, a voxel between two classes changes sides
LEAST_AGREEMENT = 0.999
LARGEST_DIFFERENCE = 1e-3
LARGEST_SHIFT_MM = 1e-3
BOX_DIFFERENCE, SCORE_DIFFERENCE = 1.0, 1e-2  # pixels of the file; of objects, which depend on many decisions before
LEAST_MATCHED = 0.98


@dataclass(frozen=True)
class OutputComparison:
    """One file held against the expected one.

    Attributes:
        file: its name.
        measure: what was measured: `largest difference`, `equal labels` or `matched objects`.
        value: measured.
        limit: allowed: at most for a difference, at least for a share.
        about: how much there was to compare.
    """

    file: str
    measure: str
    value: float
    limit: float
    about: str

    @property
    def passes(self) -> bool:
        """Whether the value keeps the limit; one that is no number does not."""
        if self.measure == "largest difference":
            return self.value <= self.limit
        return self.value >= self.limit


def compare_output(expected: Path, found: Path) -> OutputComparison:
    """Compare two files of one name, by their content.

    - `.nii.gz`, `.png`: label maps; share of equal labels; grids must be the same within 1e-3 mm.
    - `.npy`, `.tif`: probabilities; largest difference.
    - `predictions.json`: probabilities of classes; largest difference.
    - `detections.json`: COCO results; share of objects with a partner of the same class, box and score.

    Raises:
        InputError: `found` is missing, or cannot be compared.
    """
    if not found.is_file():
        raise InputError(f"{expected.name}: was not written. Cure: another version of monai_ext, see the packed.json")
    try:
        return _compare(expected, found)
    except InputError:
        raise
    except Exception as error:  # readers of damaged files raise nearly any kind
        raise InputError(f"{expected.name}: cannot be compared ({error!s:.200}). Cure: export again") from error


def _compare(expected: Path, found: Path) -> OutputComparison:
    name = expected.name
    if name == "predictions.json":
        return _classes(name, _json(expected), _json(found))
    if name == "detections.json":
        return _objects(name, _json(expected), _json(found))
    if name.endswith(".nii.gz"):
        a, b = nibabel.Nifti1Image.from_filename(expected), nibabel.Nifti1Image.from_filename(found)
        _same_shape(name, a.shape, b.shape)
        shift = float(np.abs(a.affine - b.affine).max())
        if not shift <= LARGEST_SHIFT_MM:
            raise InputError(f"{name}: lies {shift:g} mm from where it should. Cure: export again")
        return _labels(name, np.asarray(a.dataobj), np.asarray(b.dataobj))
    if name.endswith(".png"):
        return _labels(name, np.asarray(Image.open(expected)), np.asarray(Image.open(found)))
    if name.endswith(".npy"):
        return _values(name, np.load(expected, allow_pickle=False), np.load(found, allow_pickle=False))
    if name.endswith(".tif"):
        return _values(name, read_em_images(expected), read_em_images(found))
    raise InputError(f"{name}: is no prediction of a bundle. Cure: export again")


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _same_shape(name: str, expected: tuple[int, ...], found: tuple[int, ...]) -> None:
    if expected != found:
        raise InputError(f"{name}: has shape {found}, expected {expected}. Cure: export again")


def _labels(name: str, expected: np.ndarray, found: np.ndarray) -> OutputComparison:
    _same_shape(name, expected.shape, found.shape)
    values = len(np.unique(expected))
    about = f"{expected.size} voxels, {values} label{'s' * (values != 1)}"
    return OutputComparison(name, "equal labels", float((expected == found).mean()), LEAST_AGREEMENT, about)


def _values(name: str, expected: np.ndarray, found: np.ndarray) -> OutputComparison:
    _same_shape(name, expected.shape, found.shape)
    difference = float(np.abs(expected.astype(np.float64) - found).max(initial=0))
    about = f"{expected.size} values from {expected.min():.3g} to {expected.max():.3g}"
    return OutputComparison(name, "largest difference", difference, LARGEST_DIFFERENCE, about)


def _classes(name: str, expected: Any, found: Any) -> OutputComparison:
    """Ranks of equally likely classes may change places, so classes are compared by name."""
    tables = [
        {
            (entry["file"], top["class"]): float(top["probability"])
            for entry in content["predictions"]
            for top in entry["top"]
        }
        for content in (expected, found)
    ]
    if not tables[0] or tables[0].keys() != tables[1].keys():
        raise InputError(f"{name}: lists other images or classes than expected. Cure: export again")
    differences = np.array([abs(value - tables[1][key]) for key, value in tables[0].items()])
    about = f"{len(differences)} probabilities"
    return OutputComparison(name, "largest difference", float(differences.max()), LARGEST_DIFFERENCE, about)


def _objects(name: str, expected: list[Any], found: list[Any]) -> OutputComparison:
    """Every expected object takes the nearest free one of its class."""
    boxes, scores, kinds = _columns(found)
    free = np.ones(len(found), dtype=bool)
    matched = 0
    for box, score, kind in zip(*_columns(expected), strict=True):
        distance = np.maximum(
            np.abs(boxes - box).max(1, initial=0) / BOX_DIFFERENCE, np.abs(scores - score) / SCORE_DIFFERENCE
        )
        distance[~free | (kinds != kind)] = np.inf
        if len(distance) and distance.min() <= 1:
            free[distance.argmin()] = False
            matched += 1
    most = max(len(expected), len(found))
    about = f"{len(expected)} objects" + ("" if expected else ": says little")
    return OutputComparison(name, "matched objects", matched / most if most else 1.0, LEAST_MATCHED, about)


def _columns(results: list[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes `[N, 4]`, scores `[N]` and categories `[N]` of COCO results."""
    boxes = np.array([entry["bbox"] for entry in results], dtype=np.float64).reshape(-1, 4)
    scores = np.array([entry["score"] for entry in results], dtype=np.float64)
    return boxes, scores, np.array([entry["category_id"] for entry in results], dtype=np.int64)
