"""Closing of label maps: gaps that fill, outlines that stay, and where it takes place."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monai_ext.datasets.segmentation_dataset import SegmentationDataset
from monai_ext.planning.plan import Plan
from monai_ext.preprocessing.case_preprocessing import preprocess
from monai_ext.preprocessing.label_closing import close_labels
from monai_ext.preprocessing.prepare import prepare_cases

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))
MAPS = SHAPES.flatmap(lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 3)))


def by_the_definition(labels: np.ndarray) -> np.ndarray:
    """Largest value of the 3 x 3 square about every voxel of a slice, then the smallest of those."""
    result = labels
    for extreme in (np.max, np.min):
        source, result = result, np.empty_like(labels)
        for z, y, x in product(*map(range, labels.shape)):
            result[z, y, x] = extreme(source[z, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2])
    return result


@given(MAPS)
@settings(max_examples=60, deadline=None)
def test_equals_the_definition(labels: np.ndarray) -> None:
    before = labels.copy()
    closed = close_labels(labels)
    np.testing.assert_array_equal(closed, by_the_definition(labels))
    assert closed.dtype == labels.dtype
    assert (closed >= labels).all()
    np.testing.assert_array_equal(close_labels(closed), closed)  # closing twice is closing once
    np.testing.assert_array_equal(labels, before)


def test_gap_is_filled_within_a_slice_only() -> None:
    labels = np.zeros((3, 9, 9), dtype=np.uint8)
    labels[1, 2:7, 2:7] = 1
    labels[1, 4, 4:6] = 0
    closed = close_labels(labels)
    assert (closed[1, 2:7, 2:7] == 1).all()
    assert closed.sum() == 25  # nothing grew, in this slice or its neighbours
    between = np.zeros((5, 9, 9), dtype=np.uint8)
    between[1, 2:7, 2:7] = between[3, 2:7, 2:7] = 1
    assert close_labels(between)[2].sum() == 0
    assert close_labels(between, axis=1)[2].sum() == 25


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_slices_lie_across_the_axis(axis: int) -> None:
    labels = np.random.default_rng(0).integers(0, 3, (5, 6, 7), dtype=np.int16)
    expected = np.moveaxis(close_labels(np.moveaxis(labels, axis, 0)), 0, axis)
    found = close_labels(labels, axis)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int16


@pytest.mark.parametrize("value", [1, 9])
def test_unannotated_voxels_stay_and_fill_nothing(value: int) -> None:
    labels = np.zeros((1, 7, 7), dtype=np.uint8)
    labels[0, 1:6, 1:3] = labels[0, 1:6, 4:6] = 2
    labels[0, 2:4, 3] = value
    closed = close_labels(labels, ignore_label=value)
    assert (closed[labels == value] == value).all()
    assert (closed[0, 4, 3], (closed == value).sum()) == (2, 2)


def test_plan_closes_stored_labels_slice_by_slice(make_plan: Callable[..., Plan], tools: SimpleNamespace) -> None:
    """Axial slices wherever the plan puts them; the image and plans without it are left alone."""
    shape = (10, 14, 12)
    image, _ = tools.ball_case(shape)
    label = np.random.default_rng(0).integers(0, 3, shape, dtype=np.uint8)
    geometry, options = tools.grid(shape, (1.0, 1.0, 1.0)), {"crop": "none"}
    for axes in ((0, 1, 2), (2, 0, 1)):
        plain = preprocess(image, geometry, make_plan(axes=axes, **options), label)
        closed = preprocess(image, geometry, make_plan(axes=axes, label_closing=True, **options), label)
        np.testing.assert_array_equal(closed[0], plain[0])
        np.testing.assert_array_equal(plain[1], label.transpose(axes))  # type: ignore[arg-type]
        np.testing.assert_array_equal(closed[1], close_labels(label).transpose(axes))  # type: ignore[arg-type]
    flat = {"spatial_dims": 2, "axes": (0, 1), "spacing": (1.0, 1.0), "slice_axis": 1, "patch_size": (8, 8)}
    stored = preprocess(image, geometry, make_plan(label_closing=True, **flat, **options), label)[1]
    np.testing.assert_array_equal(stored, close_labels(label.transpose(1, 0, 2)))  # type: ignore[arg-type]


def test_closing_follows_resampling(make_plan: Callable[..., Plan], tools: SimpleNamespace) -> None:
    """The gap of one voxel is wider than the square once the slices are finer."""
    shape = (4, 12, 12)
    label = np.zeros(shape, dtype=np.uint8)
    label[:, 2:10, 2:10] = 1
    label[:, 2:10, 6] = 0
    geometry = tools.grid(shape, (1.0, 1.0, 1.0))
    image = np.ones((1, *shape), dtype=np.float32)
    gaps = {}
    for size in (1.0, 0.25):
        plan = make_plan(spacing=(1.0, size, size), crop="none", normalization=("none",), label_closing=True)
        stored = preprocess(image, geometry, plan, label)[1]
        assert stored is not None
        row = stored[2, stored.shape[1] // 2]
        inside = np.flatnonzero(row)
        gaps[size] = int((row[inside[0] : inside[-1]] == 0).sum())
    assert gaps[1.0] == 0
    assert gaps[0.25] > 2


def test_switching_it_on_stores_the_cases_anew(
    balls: SegmentationDataset, make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    prepare_cases(balls, make_plan(), folder, progress=False)
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/*.npy")}
    prepare_cases(balls, make_plan(label_closing=False), folder, progress=False)
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*/*.npy")} == before
    prepare_cases(balls, make_plan(label_closing=True), folder, progress=False)
    after = {p: p.stat().st_mtime_ns for p in folder.glob("*/*.npy")}
    assert all(after[p] != before[p] for p in before)
