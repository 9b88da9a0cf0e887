"""Tests of what happens to detections at seams."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ext.inferers.detection_merging import joined, merge_tiles, resampled
from monai_ext.inferers.detection_tiles import tile_grid
from monai_ext.networks.mask_rcnn.structures import Detections
from monai_ext.ops.paste_masks import paste_masks

HEIGHT, WIDTH, OVERLAP = 100, 180, 20
TILES = tile_grid(HEIGHT, WIDTH, (100, 100), OVERLAP)  # two: columns 0 to 100 and 80 to 180


def found(*objects):
    """Full boxes: (x0, y0, x1, y1, score) and class, 1 if it is not given."""
    rows = torch.tensor([entry[:5] for entry in objects], dtype=torch.float32).reshape(-1, 5)
    labels = torch.tensor([entry[5] if len(entry) > 5 else 1 for entry in objects], dtype=torch.int64)
    return Detections(rows[:, :4], rows[:, 4], labels, torch.ones(len(objects), 28, 28))


def merged(left, right):
    return merge_tiles([found(*left), found(*right)], TILES, HEIGHT, WIDTH, OVERLAP)


def test_tiles_of_this_test():
    assert [(tile.left, tile.width) for tile in TILES] == [(0, 100), (80, 100)]


def test_an_object_in_both_tiles_is_kept_once_with_the_better_score():
    result = merged([(85, 10, 95, 20, 0.7)], [(5.2, 10, 15, 20, 0.8)])
    torch.testing.assert_close(result.boxes, torch.tensor([[85.2, 10, 95, 20]]))
    assert result.scores.tolist() == pytest.approx([0.8])


def test_a_piece_gives_way_to_the_whole_even_with_a_better_score():
    result = merged([(90, 10, 100, 30, 0.99)], [(10, 10, 28, 30, 0.6)])
    torch.testing.assert_close(result.boxes, torch.tensor([[90.0, 10, 108, 30]]))


def test_a_piece_that_ends_short_of_the_border_gives_way():
    # its box ends 4.5 pixels before the border, too far to be called cut; it lies within the whole one
    result = merged([(86, 10, 95.5, 30, 0.99)], [(6, 10, 28, 30, 0.6)])
    torch.testing.assert_close(result.boxes, torch.tensor([[86.0, 10, 108, 30]]))


def test_a_piece_that_the_other_tile_does_not_confirm_goes():
    assert len(merged([(92, 10, 100, 30, 0.9)], []).scores) == 0


def test_objects_at_the_edge_of_the_image_stay():
    result = merged([(0, 0, 10, 10, 0.9)], [(90, 90, 100, 100, 0.8)])
    assert result.boxes.tolist() == [[0, 0, 10, 10], [170, 90, 180, 100]]


def test_classes_are_kept_apart():
    result = merged([(85, 10, 95, 20, 0.7, 1)], [(5, 10, 15, 20, 0.8, 2)])
    assert result.labels.tolist() == [2, 1]


def test_objects_of_one_tile_do_not_suppress_each_other():
    result = merged([(10, 10, 30, 30, 0.9), (12, 10, 32, 30, 0.8)], [])
    assert len(result.scores) == 2


def test_neighbours_in_different_tiles_stay():
    # they touch at column 90 and overlap by one pixel
    result = merged([(80, 10, 91, 30, 0.9)], [(10, 10, 24, 30, 0.8)])
    assert len(result.scores) == 2


def test_an_object_larger_than_the_overlap_is_joined():
    result = merged([(40, 10, 100, 50, 0.7)], [(0, 10, 60, 50, 0.9)])
    assert result.boxes.tolist() == [[40, 10, 140, 50]]
    assert result.scores.tolist() == pytest.approx([0.9])
    painted = paste_masks(result.masks, result.boxes, HEIGHT, WIDTH)
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.int32)
    expected[10:50, 40:140] = 1
    # the box is 3.6 pixels a cell wide: masks fall to one half within half a cell of its edge
    assert (painted != expected).float().mean() < 0.03 * expected.float().mean()


def test_pieces_of_different_objects_are_not_joined():
    result = merged([(40, 10, 100, 30, 0.7)], [(0, 32, 60, 50, 0.9)])
    assert len(result.scores) == 2


def test_an_object_over_many_tiles_becomes_one():
    tiles = tile_grid(100, 900, (100, 100), 20)
    pieces = [
        found((0 if tile.left else 10, 40, 100 if tile.left < 800 else 90, 60, 0.5 + 0.01 * number))
        for number, tile in enumerate(tiles)
    ]
    result = merge_tiles(pieces, tiles, 100, 900, 20)
    assert len(tiles) == 11
    assert result.boxes.tolist() == [[10, 40, 890, 60]]
    assert (result.masks[0, 1:-1] > 0.99).all()


def test_scores_descend_and_nothing_may_be_found():
    result = merged([(10, 10, 20, 20, 0.3), (30, 10, 40, 20, 0.6)], [(50, 10, 60, 20, 0.5)])
    assert result.scores.tolist() == pytest.approx([0.6, 0.5, 0.3])
    empty = merged([], [])
    assert empty.boxes.shape == (0, 4)
    assert empty.masks.shape == (0, 28, 28)


def test_masks_on_other_boxes():
    ramp = (torch.arange(8.0) / 8).expand(1, 8, 8).contiguous()
    box = torch.tensor([[10.0, 10, 18, 18]])
    torch.testing.assert_close(resampled(ramp, box, box), ramp)
    right = resampled(ramp, box, torch.tensor([[14.0, 10, 22, 18]]))
    torch.testing.assert_close(right[0, :, :4], ramp[0, :, 4:])
    # half a cell beyond the box it is zero
    assert (right[0, :, 4:] == 0).all()


def test_joined_takes_the_class_of_the_best_piece():
    result = joined(found((0, 0, 10, 10, 0.3, 2), (5, 0, 20, 10, 0.4, 1)))
    assert result.labels.tolist() == [1]
    np.testing.assert_allclose(result.boxes, [[0, 0, 20, 10]])
