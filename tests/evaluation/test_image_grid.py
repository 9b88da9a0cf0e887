"""Images beside each other."""

from __future__ import annotations

import numpy as np
import pytest

from monai_ext.evaluation.image_grid import RIGHT, WRONG, compose_image_grid, displayed, side_by_side


def has_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(-1).any())


def test_normalisation_is_undone() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 5, 7)).astype(np.uint8)
    mean, std = (0.2, 0.5, 0.8), (0.1, 0.3, 0.25)
    values = (pixels / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert (displayed(values.astype(np.float32), mean, std) == pixels.transpose(1, 2, 0)).all()
    grey = displayed(values[:1].astype(np.float32), mean[:1], std[:1])
    assert (grey == pixels[0][..., None]).all()
    assert displayed(values[:2], mean[:2], std[:2]).shape == (5, 7, 3)  # the first of two channels, grey


def test_middle_of_a_volume_and_strip_of_a_signal() -> None:
    volume = np.zeros((1, 5, 4, 6), dtype=np.float32)
    volume[:, 2] = 1
    assert (displayed(volume, (0.0,), (1.0,)) == 255).all()
    strip = displayed(np.linspace(0, 1, 40, dtype=np.float32)[None], (0.0,), (1.0,))
    assert strip.shape == (10, 40, 3)
    assert (strip[0] == strip[-1]).all()
    assert displayed(np.full((1, 2, 2), np.nan), (0.0,), (1.0,)).max() == 0


def test_grid_has_a_place_per_image() -> None:
    images = [np.full((20, 30, 3), 10 * i + 100, dtype=np.uint8) for i in range(5)]
    grid = compose_image_grid(images, [["a" * 200, "second"]] * 5, [RIGHT] * 4 + [WRONG], columns=3, panel=60)
    one = compose_image_grid(images[:1], [["a", "second"]], columns=3, panel=60)
    assert grid.dtype == np.uint8
    assert grid.shape[1] - one.shape[1] == 2 * (one.shape[1] - 8)  # three places, gap of 8 once
    assert grid.shape[0] - one.shape[0] == one.shape[0] - 8
    for i in range(5):
        assert (grid == 10 * i + 100).all(-1).sum() > 0.8 * 60 * 40  # its proportions are kept
    assert has_colour(grid, RIGHT)
    assert has_colour(grid, WRONG)
    assert not has_colour(one, RIGHT)


def test_extreme_shapes_are_drawn() -> None:
    assert compose_image_grid([np.zeros((1, 500, 3), np.uint8)], [[]]).size > 0


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="0 images"):
        compose_image_grid([], [])
    with pytest.raises(ValueError, match="1 images"):
        compose_image_grid([np.zeros((2, 2, 3), np.uint8)], [])


def test_pictures_are_aligned_at_the_top() -> None:
    a, b = np.full((4, 3, 3), 200, np.uint8), np.full((9, 5, 3), 100, np.uint8)
    row = side_by_side([a, b])
    assert row.shape == (9, 8, 3)
    assert (row[:4, :3] == 200).all()
    assert (row[:, 3:] == 100).all()
    assert (row[4:, :3] < 50).all()
