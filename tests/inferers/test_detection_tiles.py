"""Tests of overlapping tiles."""

from __future__ import annotations

import numpy as np
import pytest

from monai_ext.inferers.detection_tiles import Tile, inner_borders, inside, neighbours, tile_grid, tile_starts


@pytest.mark.parametrize(
    ("length", "size", "overlap"), [(1500, 256, 64), (1100, 256, 64), (257, 256, 255), (448, 256, 64), (449, 256, 64)]
)
def test_tiles_cover_an_axis_and_overlap_enough(length, size, overlap):
    starts = tile_starts(length, size, overlap)
    assert starts[0] == 0
    assert starts[-1] + size == length
    steps = np.diff(starts)
    assert steps.min() > 0
    assert steps.max() <= size - overlap
    # one tile fewer would not reach the end
    assert size + (len(starts) - 2) * (size - overlap) < length


@pytest.mark.parametrize("length", [1, 200, 256])
def test_an_axis_that_fits_has_one_tile(length):
    assert tile_starts(length, 256, 64) == [0]


@pytest.mark.parametrize("overlap", [256, 300, -1])
def test_overlap_out_of_range(overlap):
    with pytest.raises(ValueError, match="overlap"):
        tile_starts(1000, 256, overlap)


def test_every_small_interval_is_whole_in_some_tile():
    starts, size, overlap, margin = tile_starts(700, 256, 64), 256, 64, 4
    for first in range(700):
        for length in (1, 30, overlap - 2 * margin):
            stop = first + length
            if stop <= 700:
                assert any(
                    (start == 0 or first >= start + margin) and (start + size == 700 or stop <= start + size - margin)
                    for start in starts
                )


def test_grid_and_borders():
    tiles = tile_grid(300, 100, (256, 256), 64)
    assert tiles == [Tile(0, 0, 256, 100), Tile(44, 0, 256, 100)]
    inf = np.inf
    np.testing.assert_array_equal(inner_borders(tiles, 300, 100), [[-inf, -inf, inf, 256], [-inf, 44, inf, inf]])


def test_inside_keeps_its_distance():
    borders = np.array([[-np.inf, 44, 100, 256]], dtype=np.float32)
    boxes = np.array([[0, 48, 96, 252], [0, 47.5, 96, 252], [0, 48, 96.5, 252], [0, 48, 96, 252.5]], dtype=np.float32)
    assert inside(boxes, borders, 4).tolist() == [True, False, False, False]


def test_neighbours_share_pixels():
    tiles = tile_grid(640, 640, (256, 256), 64)
    assert len(tiles) == 9
    found = neighbours(tiles)
    assert [len(others) for others in found] == [3, 5, 3, 5, 8, 5, 3, 5, 3]
    assert found[0].tolist() == [1, 3, 4]
