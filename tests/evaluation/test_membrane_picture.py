"""Picture of EM slices."""

from __future__ import annotations

import numpy as np
import pytest

from monai_ext.evaluation.membrane_picture import FOUND, INVENTED, MISSED, PANEL, compose_membranes


def has(picture: np.ndarray, colour: tuple[int, int, int], grey: int) -> bool:
    """Whether the tint of a colour over a grey value is in the picture; two levels for rounding."""
    tinted = 0.45 * grey + 0.55 * np.array(colour)
    return bool((np.abs(picture.astype(float) - tinted) < 2).all(-1).any())


def test_found_missed_and_invented_membranes_have_their_colours() -> None:
    images = np.zeros((1, 400, 400))
    images[0, 0, :10] = 1  # some range, so that the rest is black
    labels = np.ones((1, 400, 400), np.uint8)
    labels[0, :, 100:200] = 0
    probabilities = np.ones((1, 400, 400))
    perfect = compose_membranes(images, labels, labels.astype(float), ["a"])
    assert has(perfect, FOUND, 0)
    assert not has(perfect, MISSED, 0)
    assert not has(perfect, INVENTED, 0)
    probabilities[0, :, 150:250] = 0.2
    picture = compose_membranes(images, labels, probabilities, ["a"])
    assert all(has(picture, colour, 0) for colour in (FOUND, MISSED, INVENTED))
    assert picture.dtype == np.uint8


@pytest.mark.parametrize(("count", "asked", "rows"), [(1, 2, 1), (6, 2, 2), (6, 9, 6)])
def test_rows_are_slices_and_sizes_keep_their_proportions(count: int, asked: int, rows: int) -> None:
    stack = np.random.default_rng(0).random((count, 40, 80))
    picture = compose_membranes(stack, stack > 0.5, stack, [f"{i}" for i in range(count)], asked)
    assert picture.shape[1] == 8 + 4 * (PANEL + 8)
    assert picture.shape[0] == 23 + rows * (23 + PANEL // 2 + 8)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\[N, H, W\] of one shape"):
        compose_membranes(np.zeros((1, 4, 4)), np.zeros((1, 4, 5)), np.zeros((1, 4, 4)), ["a"])
