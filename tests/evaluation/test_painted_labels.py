"""Label maps of detections."""

from __future__ import annotations

import numpy as np
import torch

from drawn_objects import disc_detections, disc_map
from monai_ext.evaluation.painted_labels import painted_detections, without_small_parts
from monai_ext.networks.mask_rcnn.structures import Detections

DISCS = [(12, 12, 8), (40, 20, 9), (25, 45, 10)]


def whole(edges: list[tuple[int, int, int, int]], scores: list[float]) -> Detections:
    """Boxes that are full of object."""
    count = len(edges)
    return Detections(
        torch.tensor(edges, dtype=torch.float32),
        torch.tensor(scores),
        torch.ones(count, dtype=torch.int64),
        torch.ones(count, 28, 28),
    )


def test_discs_come_back() -> None:
    painted = painted_detections(disc_detections(DISCS, [0.9, 0.8, 0.7]), 60, 50)[0]
    expected = disc_map((60, 50), DISCS)
    assert painted.dtype == np.int32
    assert painted.shape == (60, 50)
    # a mask of 28 x 28 cells follows the border to about half a pixel
    assert (painted != expected).mean() < 0.02
    assert [np.bincount(painted[expected == value]).argmax() for value in (1, 2, 3)] == [1, 2, 3]


def test_the_surest_keeps_its_pixels_and_weak_ones_are_not_painted() -> None:
    detections = whole([(0, 0, 10, 10), (5, 0, 15, 10), (30, 0, 40, 10)], [0.9, 0.6, 0.3])
    painted, places = painted_detections(detections, 12, 50, threshold=0.5)
    assert np.bincount(painted.ravel()).tolist() == [600 - 150, 100, 50]
    assert (painted[:10, :10] == 1).all()
    assert (painted[:10, 10:15] == 2).all()
    assert places.tolist() == [0, 1]
    assert painted_detections(detections, 12, 50, threshold=0.3)[1].tolist() == [0, 1, 2]  # equal counts


def test_no_gap_where_an_object_is_covered_or_empty() -> None:
    detections = whole([(0, 0, 10, 10), (2, 2, 8, 8), (100, 100, 120, 120), (20, 0, 30, 10)], [0.9, 0.8, 0.7, 0.6])
    painted, places = painted_detections(detections, 12, 50)
    assert np.unique(painted).tolist() == [0, 1, 2]
    assert places.tolist() == [0, 3]


def test_small_parts_go() -> None:
    """A surer object cuts another one into 30 and 4 pixels; the small part goes, the large one stays."""
    detections = whole([(3, 0, 6, 10), (0, 0, 3, 10), (5, 4, 10, 5)], [0.9, 0.8, 0.7])
    assert np.bincount(painted_detections(detections, 10, 10)[0].ravel()).tolist() == [36, 30, 30, 4]
    painted, places = painted_detections(detections, 10, 10, min_area=5)
    assert np.bincount(painted.ravel()).tolist() == [40, 30, 30]
    assert places.tolist() == [0, 1]


def test_parts_are_joined_at_corners_but_not_across_objects() -> None:
    labels = np.zeros((6, 6), dtype=np.int32)
    labels[0, 0] = labels[1, 1] = labels[2, 2] = 1  # a diagonal of 3
    labels[4:, 4:] = 2
    labels[4, 0] = 2  # far away from the rest of 2
    kept = without_small_parts(labels, 3)
    assert np.bincount(kept.ravel()).tolist() == [29, 3, 4]
    assert labels[4, 0] == 2  # what was given stays as it is


def test_nothing_found() -> None:
    none = Detections(*(tensor[:0] for tensor in disc_detections(DISCS, [0.9, 0.8, 0.7])))
    painted, places = painted_detections(none, 5, 7, min_area=4)
    assert painted.shape == (5, 7)
    assert not painted.any()
    assert not len(places)
