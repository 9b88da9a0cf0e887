"""Only the largest component stays, whatever its shape, and ties are settled by position."""

from __future__ import annotations

import numpy as np
import pytest

from monai_ext.evaluation.largest_component import bounding_box, keep_largest_component


def volume(*voxels: tuple[int, int, int, int], shape: tuple[int, int, int] = (4, 6, 6)) -> np.ndarray:
    labels = np.zeros(shape, dtype=np.uint8)
    for z, y, x, value in voxels:
        labels[z, y, x] = value
    return labels


def test_smaller_components_become_background_and_other_classes_stay() -> None:
    labels = volume((0, 0, 0, 1), (0, 0, 1, 1), (3, 5, 5, 1), (2, 2, 5, 2), (0, 5, 0, 2))
    before = labels.copy()
    kept = keep_largest_component(labels, [1])
    np.testing.assert_array_equal(kept, volume((0, 0, 0, 1), (0, 0, 1, 1), (2, 2, 5, 2), (0, 5, 0, 2)))
    np.testing.assert_array_equal(labels, before)
    assert kept.dtype == labels.dtype


def test_classes_of_a_group_form_components_together() -> None:
    labels = volume((0, 0, 0, 1), (0, 0, 1, 2), (0, 0, 2, 2), (3, 5, 4, 1), (3, 5, 5, 1))
    np.testing.assert_array_equal(
        keep_largest_component(labels, [1, 2]), volume((0, 0, 0, 1), (0, 0, 1, 2), (0, 0, 2, 2))
    )


@pytest.mark.parametrize("corner", [(1, 1, 1), (1, 0, 1), (1, 0, 0)])
def test_corners_edges_and_faces_connect(corner: tuple[int, int, int]) -> None:
    labels = volume((0, 0, 0, 1), (*corner, 1))
    assert keep_largest_component(labels, [1]) is labels


def test_of_equal_components_the_first_stays_on_one_slice_too() -> None:
    labels = volume((0, 4, 4, 1), (0, 1, 1, 1), (0, 0, 5, 1), shape=(1, 6, 6))
    np.testing.assert_array_equal(keep_largest_component(labels, [1]), volume((0, 0, 5, 1), shape=(1, 6, 6)))


@pytest.mark.parametrize("value", [0, 1])
def test_nothing_to_remove(value: int) -> None:
    labels = np.full((2, 3, 4), value, dtype=np.uint16)
    assert keep_largest_component(labels, [1]) is labels
    assert keep_largest_component(labels, [300]) is labels


def test_box_is_the_smallest() -> None:
    mask = np.zeros((4, 5, 6), dtype=bool)
    assert bounding_box(mask) is None
    mask[1, 2, 3] = mask[2, 4, 0] = True
    assert bounding_box(mask) == (slice(1, 3), slice(2, 5), slice(0, 4))
