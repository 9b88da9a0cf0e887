"""Metrics of one case: values known by hand, absent classes, ignored voxels, parity with MONAI."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from monai_ext.evaluation.segmentation_metrics import case_metrics, surface_distances, surface_voxels

ONE = {"organ": 1}


def cube(shape: tuple[int, ...], start: tuple[int, ...], size: int, value: int = 1) -> np.ndarray:
    labels = np.zeros(shape, dtype=np.uint8)
    labels[tuple(slice(s, s + size) for s in start)] = value
    return labels


def blobs(seed: int, shape: tuple[int, ...], num_classes: int) -> np.ndarray:
    """Smooth random label map: argmax of blurred noise."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).normal(size=(num_classes, *shape))
    return np.argmax([gaussian_filter(channel, 2.0) for channel in noise], axis=0).astype(np.uint8)


def test_identical_maps_are_perfect() -> None:
    labels = cube((9, 9, 9), (2, 2, 2), 4)
    assert case_metrics(labels, labels, (3.0, 1.0, 0.5), ONE)["organ"] == {
        "dice": 1.0,
        "surface_dice": 1.0,
        "hd95_mm": 0.0,
        "tp": 64,
        "fp": 0,
        "fn": 0,
        "reference_voxels": 64,
        "predicted_voxels": 64,
    }


@pytest.mark.parametrize(("axis", "spacing"), [(0, 3.0), (1, 1.0), (2, 0.5)])
def test_cube_shifted_by_one_voxel_with_anisotropic_spacing(axis: int, spacing: float) -> None:
    """Cube of edge 4 moved one voxel: 48 of 64 voxels shared; one face (16 surface voxels) lies outside the other."""
    reference = cube((10, 10, 10), (2, 2, 2), 4)
    prediction = np.roll(reference, 1, axis)
    metrics = case_metrics(prediction, reference, (3.0, 1.0, 0.5), ONE, tolerance_mm=0.75)["organ"]
    assert (metrics["tp"], metrics["fp"], metrics["fn"]) == (48, 16, 16)
    assert metrics["dice"] == 0.75
    # Each cube has 64 - 8 = 56 surface voxels. Inner voxels of the end face and of the far face are where the other
    # cube has no surface: 16 of the protruding face at one voxel, 4 inner ones of the opposite face at one voxel too
    # unless a side wall is nearer (never: the walls are one in-plane voxel away).
    in_plane = [s for i, s in enumerate((3.0, 1.0, 0.5)) if i != axis]
    near_wall = min(*in_plane, spacing)
    distances = np.concatenate([np.zeros(36), np.full(16, spacing), np.full(4, near_wall)])
    assert metrics["hd95_mm"] == pytest.approx(np.percentile(distances, 95))
    assert metrics["surface_dice"] == pytest.approx(np.mean(distances <= 0.75))


def test_surface_at_exactly_the_tolerance_agrees() -> None:
    reference, prediction = np.zeros((2, 1, 40, 40), dtype=np.uint8)
    reference[0, 0, 0] = prediction[0, 0, 0] = 1  # holds the box, so that distances do not start at 0
    reference[0, 39, 2] = prediction[0, 39, 12] = 1
    # 12 * 0.1 - 2 * 0.1 is 1.0000000000000002 in binary
    metrics = case_metrics(prediction, reference, (1.0, 1.0, 0.1), ONE, tolerance_mm=1.0)["organ"]
    assert metrics["surface_dice"] == 1.0
    assert metrics["hd95_mm"] == pytest.approx(0.95)  # 95 % of the way from 0 to 1
    assert case_metrics(prediction, reference, (1.0, 1.0, 0.1), ONE, tolerance_mm=0.99)["organ"]["surface_dice"] == 0.5


@pytest.mark.parametrize(
    ("in_reference", "in_prediction", "score", "hd95"),
    [(False, False, 1.0, None), (False, True, 0.0, None), (True, False, 0.0, None), (True, True, 1.0, 0.0)],
)
def test_absent_classes(in_reference: bool, in_prediction: bool, score: float, hd95: float | None) -> None:
    empty, full = np.zeros((6, 6, 6), dtype=np.int16), cube((6, 6, 6), (1, 1, 1), 3).astype(np.int16)
    reference, prediction = full if in_reference else empty, full if in_prediction else empty
    assert case_metrics(prediction, reference, (1, 1, 1), ONE)["organ"] == {
        "dice": score,
        "surface_dice": score,
        "hd95_mm": hd95,
        "tp": 27 if in_reference and in_prediction else 0,
        "fp": 27 if in_prediction and not in_reference else 0,
        "fn": 27 if in_reference and not in_prediction else 0,
        "reference_voxels": 27 * in_reference,
        "predicted_voxels": 27 * in_prediction,
    }


def test_ignored_voxels_count_nowhere() -> None:
    reference = cube((8, 8, 8), (2, 2, 2), 4)
    reference[:, :, 5:] = 9  # the last column of the cube is unannotated
    prediction = cube((8, 8, 8), (2, 2, 2), 4)
    prediction[0, 0, 6] = 1  # wrong, but unannotated
    metrics = case_metrics(prediction, reference, (1, 1, 1), {"organ": 1, "unknown": 9}, ignore_label=9)
    assert list(metrics) == ["organ"]
    assert metrics["organ"]["dice"] == 1.0
    assert metrics["organ"]["hd95_mm"] == 0.0
    assert metrics["organ"]["predicted_voxels"] == metrics["organ"]["reference_voxels"] == 48


def test_class_only_predicted_inside_ignored_voxels_is_absent() -> None:
    reference, prediction = np.full((4, 4, 4), 9, dtype=np.uint8), cube((4, 4, 4), (1, 1, 1), 2)
    reference[0] = 0
    metrics = case_metrics(prediction, reference, (1, 1, 1), ONE, ignore_label=9)["organ"]
    assert (metrics["dice"], metrics["surface_dice"], metrics["hd95_mm"]) == (1.0, 1.0, None)


def test_border_with_ignored_voxels_is_no_surface() -> None:
    mask = np.zeros((1, 5), dtype=bool)
    mask[0, 1:4] = True
    mask = np.repeat(mask, 5, axis=0)
    ignored = np.zeros_like(mask)
    ignored[:, 4] = True
    plain, with_ignored = surface_voxels(mask), surface_voxels(mask, ignored)
    assert plain[2].tolist() == [False, True, False, True, False]
    assert with_ignored[2].tolist() == [False, True, False, False, False]


def test_mask_enclosed_by_ignored_voxels_has_no_surface() -> None:
    reference = np.full((5, 5, 5), 9, dtype=np.uint8)
    reference[2, 2, 2] = 1
    metrics = case_metrics(cube((5, 5, 5), (1, 1, 1), 3), reference, (1, 1, 1), ONE, ignore_label=9)["organ"]
    assert (metrics["dice"], metrics["surface_dice"], metrics["hd95_mm"]) == (1.0, 1.0, None)


def test_infinite_distance_where_the_other_mask_has_no_surface() -> None:
    mask = cube((3, 3, 3), (1, 1, 1), 1).astype(bool)
    there, back = surface_distances(mask, np.zeros_like(mask), (1, 1, 1))
    assert there.tolist() == [np.inf]
    assert back.tolist() == []


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.8, 0.7)])
@pytest.mark.parametrize("shape", [(24, 26, 28), (9, 31, 17)])
def test_equals_monai(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    reference, other = blobs(1, shape, 4), blobs(2, shape, 4)
    prediction = np.where(np.arange(shape[1])[None, :, None] < shape[1] // 2, reference, other)
    metrics = case_metrics(prediction, reference, spacing, {"a": 1, "b": 2, "c": 3}, tolerance_mm=1.5)

    def one_hot(labels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.stack([labels == k for k in range(4)])[None])

    arguments = (one_hot(prediction), one_hot(reference))
    surface = compute_surface_dice(*arguments, class_thresholds=[1.5] * 3, spacing=spacing)
    hausdorff = compute_hausdorff_distance(*arguments, percentile=95, spacing=spacing)
    # MONAI holds distances, and the rank of the percentile, in float32
    np.testing.assert_allclose([m["surface_dice"] for m in metrics.values()], surface[0].numpy(), rtol=1e-6)
    np.testing.assert_allclose([m["hd95_mm"] for m in metrics.values()], hausdorff[0].numpy(), rtol=1e-5)
    for value, m in zip((1, 2, 3), metrics.values(), strict=True):
        assert m["tp"] == ((prediction == value) & (reference == value)).sum()
        assert m["tp"] + m["fp"] == m["predicted_voxels"] == (prediction == value).sum()
        assert m["tp"] + m["fn"] == m["reference_voxels"] == (reference == value).sum()
        assert m["dice"] == 2 * m["tp"] / (2 * m["tp"] + m["fp"] + m["fn"])
        assert 0 < m["dice"] < 1


def test_distances_are_symmetric() -> None:
    a, b = blobs(3, (12, 14, 10), 3), blobs(4, (12, 14, 10), 3)
    ab, ba = (case_metrics(x, y, (2, 1, 1), ONE)["organ"] for x, y in ((a, b), (b, a)))
    for key in ("dice", "surface_dice", "hd95_mm", "tp"):
        assert ab[key] == ba[key]  # type: ignore[literal-required]
    assert (ab["fp"], ab["fn"]) == (ba["fn"], ba["fp"])


def test_two_dimensional_and_bool_maps() -> None:
    reference = np.zeros((8, 8), dtype=bool)
    reference[2:6, 2:6] = True
    metrics = case_metrics(np.roll(reference, 1, 1), reference, (1.0, 2.0), ONE)["organ"]
    assert metrics["dice"] == 0.75
    assert metrics["tp"] == 12


def test_background_is_skipped_and_order_kept() -> None:
    labels = np.zeros((3, 3, 3), dtype=np.uint8)
    assert list(case_metrics(labels, labels, (1, 1, 1), {"background": 0, "b": 2, "a": 1})) == ["b", "a"]
    assert case_metrics(labels, labels, (1, 1, 1), {"background": 0}) == {}


def test_bad_arguments_are_refused() -> None:
    labels = np.zeros((3, 3, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="differ in shape"):
        case_metrics(labels[:2], labels, (1, 1, 1), ONE)
    with pytest.raises(ValueError, match="prediction must hold integer labels, got float64"):
        case_metrics(labels.astype(float), labels, (1, 1, 1), ONE)
    with pytest.raises(ValueError, match="3 positive numbers"):
        case_metrics(labels, labels, (1, 1, 0), ONE)
    with pytest.raises(ValueError, match="tolerance_mm"):
        case_metrics(labels, labels, (1, 1, 1), ONE, tolerance_mm=-1.0)
