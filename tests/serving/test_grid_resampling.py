"""Resampling in numpy against the fused op."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from monai_ext.ops.spline_resample import resample_image as expected_image
from monai_ext.ops.spline_resample import resample_logits
from monai_ext.serving.grid_resampling import index_of_largest, labels_of_slabs, resample_image

GRIDS = [
    ((7, 20, 15), (12, 20, 9), None),
    ((5, 30, 22), (9, 21, 40), 0),
    ((40, 6, 18), (33, 11, 18), 1),
    ((1, 12, 9), (3, 5, 18), None),
    ((90, 8, 8), (140, 8, 8), None),  # more rows than one block of weights
    # fewer rows on the way back: whole slabs are read by no output
    ((100, 9, 8), (20, 7, 12), 0),
    ((90, 8, 8), (13, 8, 8), None),
]


@pytest.mark.parametrize(("old", "new", "separate"), GRIDS)
def test_images_are_those_of_the_fused_op(old: tuple[int, ...], new: tuple[int, ...], separate: int | None) -> None:
    image = np.random.default_rng(0).normal(size=(2, *old)).astype(np.float32)
    found = resample_image(image, new, separate)
    assert found.dtype == np.float32
    assert found.shape == (2, *new)
    # 28 products per axis in float32, summed in another order
    np.testing.assert_allclose(found, expected_image(image, new, separate), rtol=0, atol=2e-5)


def slabs(scores: np.ndarray, heights: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    first = 0
    while first < scores.shape[1]:
        height = heights[first % len(heights)]
        yield first, scores[:, first : first + height]
        first += height


@pytest.mark.parametrize("heights", [[1], [3, 1, 5], [200]])
@pytest.mark.parametrize(("old", "new", "separate"), GRIDS)
def test_labels_do_not_depend_on_slabs(
    old: tuple[int, ...], new: tuple[int, ...], separate: int | None, heights: list[int]
) -> None:
    scores = np.random.default_rng(1).normal(size=(4, *old)).astype(np.float32)
    found = labels_of_slabs(slabs(scores, heights), old, new, separate)
    expected = resample_logits(torch.from_numpy(scores), new, separate).numpy()
    ordered = np.sort(expected, 0)
    clear = ordered[-1] - ordered[-2] > 1e-5  # rounding may decide between classes nearer than that
    assert clear.mean() > 0.99
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[clear], expected.argmax(0)[clear])


def test_same_grid_is_the_first_of_the_largest() -> None:
    scores = np.random.default_rng(2).integers(0, 3, (3, 5, 6, 7)).astype(np.float32)
    np.testing.assert_array_equal(labels_of_slabs(slabs(scores, [2]), (5, 6, 7), (5, 6, 7), None), scores.argmax(0))
    many = np.zeros((300, 2), np.float32)
    many[299, 1] = 1
    np.testing.assert_array_equal(index_of_largest(many), [0, 299])


def test_missing_rows_are_noticed() -> None:
    scores = np.zeros((2, 4, 3, 3), np.float32)
    with pytest.raises(ValueError, match="slabs end after 2 rows, the stored grid has 4"):
        labels_of_slabs([(0, scores[:, :2])], (4, 3, 3), (4, 3, 3), None)
