"""Metrics of one segmented case: Dice, surface Dice, 95th percentile Hausdorff distance, voxel counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

# distances are sums of float64 products: a surface exactly at the tolerance must not fail by the last bit
TOLERANCE_SLACK_MM = 1e-6


class ClassMetrics(TypedDict):
    """Metrics of one class in one case; `hd95_mm` is None where it is undefined."""

    dice: float
    surface_dice: float
    hd95_mm: float | None
    tp: int
    fp: int
    fn: int
    reference_voxels: int
    predicted_voxels: int


def case_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Sequence[float],
    classes: Mapping[str, int],
    tolerance_mm: float = 1.0,
    ignore_label: int | None = None,
) -> dict[str, ClassMetrics]:
    """Compare a predicted label map with the reference, class by class.

    - `dice`: `2 tp / (2 tp + fp + fn)`. A class that is absent from the reference scores 1 if it is also absent from
      the prediction, else 0.
    - `surface_dice`: share of both surfaces that lies within `tolerance_mm` of the other one (normalised surface Dice,
      Nikolov et al. 2018). Both absent: 1; one absent: 0.
    - `hd95_mm`: the larger of the two directed 95th percentiles of surface distance. None if the class is absent from
      either.

    A surface voxel belongs to the class and has a face neighbour that does not; outside the image is background.
    Voxels that carry `ignore_label` in the reference count nowhere, and a border with them is no surface.

    Args:
        prediction: `[D, H, W]` integer labels.
        reference: `[D, H, W]` integer labels.
        spacing_mm: voxel size per array axis (z, y, x).
        classes: class name to value; background 0 and `ignore_label` are skipped, so a plan's `labels` may be given.
        tolerance_mm: distance up to which surfaces agree.
        ignore_label: value of unannotated voxels in the reference.

    Returns:
        Class name to its metrics, in the order of `classes`.

    Raises:
        ValueError: shapes differ, labels are not integers, a spacing is not positive, the tolerance is negative.
    """
    _check(prediction, reference, spacing_mm, tolerance_mm)
    foreground = {name: value for name, value in classes.items() if value not in (0, ignore_label)}
    boxes = _joint_boxes(prediction, reference, max(foreground.values(), default=0))
    return {
        name: _class_metrics(prediction, reference, value, boxes.get(value), spacing_mm, tolerance_mm, ignore_label)
        for name, value in foreground.items()
    }


def _class_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    value: int,
    box: tuple[slice, ...] | None,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    ignore_label: int | None,
) -> ClassMetrics:
    if box is None:
        return _metrics_of_absent_class(0, 0)
    reference, prediction = reference[box], prediction[box]
    ignored = reference == ignore_label if ignore_label is not None else None
    in_reference, in_prediction = reference == value, prediction == value
    if ignored is not None:
        in_prediction &= ~ignored
    num_reference, num_predicted = int(np.count_nonzero(in_reference)), int(np.count_nonzero(in_prediction))
    if not num_reference or not num_predicted:
        return _metrics_of_absent_class(num_reference, num_predicted)
    tp = int(np.count_nonzero(in_reference & in_prediction))
    to_reference, to_prediction = surface_distances(in_prediction, in_reference, spacing_mm, ignored)
    return ClassMetrics(
        dice=2 * tp / (num_reference + num_predicted),
        surface_dice=_surface_dice(to_reference, to_prediction, tolerance_mm),
        hd95_mm=_hd95(to_reference, to_prediction),
        tp=tp,
        fp=num_predicted - tp,
        fn=num_reference - tp,
        reference_voxels=num_reference,
        predicted_voxels=num_predicted,
    )


def _metrics_of_absent_class(num_reference: int, num_predicted: int) -> ClassMetrics:
    score = 0.0 if num_reference or num_predicted else 1.0
    return ClassMetrics(
        dice=score,
        surface_dice=score,
        hd95_mm=None,
        tp=0,
        fp=num_predicted,
        fn=num_reference,
        reference_voxels=num_reference,
        predicted_voxels=num_predicted,
    )


def surface_distances(
    first: np.ndarray, second: np.ndarray, spacing_mm: Sequence[float], ignored: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of every surface voxel of one mask to the nearest surface voxel of the other.

    Nearest neighbours in a k-d tree of the surface voxels: the cost follows the surfaces, not the volume that a
    distance transform would fill.

    Args:
        first: `[D, H, W]` bool.
        second: `[D, H, W]` bool.
        spacing_mm: voxel size per array axis.
        ignored: `[D, H, W]` bool, voxels of neither mask whose borders are no surface.

    Returns:
        `[n]` float64 mm from `first` to `second`, `[m]` float64 mm from `second` to `first`; infinite where the other
        mask has no surface.
    """
    from scipy.spatial import KDTree

    spacing = np.asarray(spacing_mm, dtype=np.float64)
    points = [np.argwhere(surface_voxels(mask, ignored)) * spacing for mask in (first, second)]
    if not len(points[0]) or not len(points[1]):
        return np.full(len(points[0]), np.inf), np.full(len(points[1]), np.inf)
    trees = [KDTree(p, balanced_tree=False, compact_nodes=False) for p in points]
    return trees[1].query(points[0])[0], trees[0].query(points[1])[0]


def surface_voxels(mask: np.ndarray, ignored: np.ndarray | None = None) -> np.ndarray:
    """Voxels of `mask` with a face neighbour outside of it and not `ignored`; bool, same shape."""
    solid = np.pad(mask if ignored is None else mask | ignored, 1)
    inner = tuple(slice(1, -1) for _ in range(mask.ndim))
    interior = solid[inner].copy()
    for axis in range(mask.ndim):
        for shifted in (slice(None, -2), slice(2, None)):
            interior &= solid[(*inner[:axis], shifted, *inner[axis + 1 :])]
    return mask & ~interior


def _surface_dice(to_reference: np.ndarray, to_prediction: np.ndarray, tolerance_mm: float) -> float:
    total = len(to_reference) + len(to_prediction)
    if total == 0:  # both masks touch nothing but ignored voxels
        return 1.0
    close = sum(int(np.count_nonzero(d <= tolerance_mm + TOLERANCE_SLACK_MM)) for d in (to_reference, to_prediction))
    return close / total


def _hd95(to_reference: np.ndarray, to_prediction: np.ndarray) -> float | None:
    if not len(to_reference) or not len(to_prediction):
        return None
    return float(max(np.percentile(to_reference, 95), np.percentile(to_prediction, 95)))


def _joint_boxes(prediction: np.ndarray, reference: np.ndarray, largest: int) -> dict[int, tuple[slice, ...]]:
    """Class value to the smallest box that holds it in both label maps; values that occur in neither are left out."""
    from scipy.ndimage import find_objects

    boxes: dict[int, tuple[slice, ...]] = {}
    if largest < 1:
        return boxes
    for labels in (prediction, reference):
        labels = labels.view(np.uint8) if labels.dtype == bool else labels
        for value, found in enumerate(find_objects(labels, max_label=largest), start=1):
            if found is None:
                continue
            joint = boxes.get(value, found)
            boxes[value] = tuple(
                slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(joint, found, strict=True)
            )
    return boxes


def _check(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float) -> None:
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction and reference differ in shape: {prediction.shape} and {reference.shape}")
    for name, labels in (("prediction", prediction), ("reference", reference)):
        if labels.dtype.kind not in "iub":
            raise ValueError(f"{name} must hold integer labels, got {labels.dtype}")
    if len(spacing_mm) != reference.ndim or not all(0 < s < float("inf") for s in spacing_mm):
        raise ValueError(f"spacing_mm must hold {reference.ndim} positive numbers, got {tuple(spacing_mm)}")
    if not tolerance_mm >= 0:
        raise ValueError(f"tolerance_mm must not be negative, got {tolerance_mm}")
