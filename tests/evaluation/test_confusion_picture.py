"""Pictures of confusion and calibration."""

from __future__ import annotations

import numpy as np
import pytest

from monai_ext.evaluation.calibration import ReliabilityBins
from monai_ext.evaluation.confusion_picture import AFTER, BEFORE, EMPTY, compose_confusion, compose_reliability


def cell_colours(picture: np.ndarray, cell: int = 64) -> np.ndarray:
    """Colours `[rows, columns, 3]` of the cells: what the runs of one colour in a block of `cell` pixels are."""
    plain = (picture != (18, 18, 22)).any(-1)
    dense = plain & np.roll(plain, -(cell - 4), 1) & np.roll(plain, -(cell - 4), 0)
    top, left = np.argwhere(dense & np.roll(plain, -(cell // 2), 1))[0]
    rows = range(top + 3, picture.shape[0], cell)
    return np.array([[picture[y, left + 3 + k * cell] for k in range(4)] for y in rows if plain[y, left + 3]])


def test_cells_are_shaded_by_the_share_of_their_row() -> None:
    """Right cells green, wrong ones red, empty ones grey; the same share looks the same whatever the counts."""
    matrix = np.array([[90, 10, 0, 0], [0, 9, 1, 0], [0, 0, 5, 5], [0, 0, 0, 0]])
    picture = compose_confusion(matrix, ["a", "b", "c", "d"])
    colours = cell_colours(picture).astype(int)
    assert colours.shape == (4, 4, 3)
    assert (colours[0, 0] == colours[1, 1]).all()
    assert (colours[0, 1] == colours[1, 2]).all()
    red, green = colours[..., 0], colours[..., 1]
    assert green[0, 0] > green[2, 2] > EMPTY[1]
    assert red[2, 3] > red[0, 1] > EMPTY[0]
    for y, x in np.argwhere(matrix == 0):
        assert tuple(colours[y, x]) == EMPTY


def test_multi_label_counts_are_judged_in_their_halves() -> None:
    """Found 1 of 2 and 1000 of 1000 rightly not there: the many without the class do not pale the few with it."""
    picture = compose_confusion(np.array([[1, 1, 0, 1000]]), ["rare"], multi_label=True)
    found, missed, alarm, rest = cell_colours(picture).astype(int)[0]
    assert found[1] > 110  # half of the cases
    assert missed[0] > 110
    assert tuple(alarm) == EMPTY
    assert rest[1] > found[1]


@pytest.mark.parametrize("count", [1, 2, 15, 37, 100, 1000])
def test_any_number_of_classes_fits(count: int) -> None:
    rng = np.random.default_rng(0)
    names = [f"a class with a rather long name, number {i}" for i in range(count)]
    picture = compose_confusion(rng.integers(0, 20, (count, count)), names)
    assert picture.dtype == np.uint8
    assert max(picture.shape) <= max(900, 2 * count + 100)
    assert len(np.unique(picture[..., 1])) > 3


def test_points_lie_at_confidence_and_accuracy() -> None:
    """A single bin far below the diagonal, its correction on it; the larger share has the larger point."""
    nan = float("nan")
    before = ReliabilityBins((0, 10), (nan, 0.9), (nan, 0.3))
    after = ReliabilityBins((5, 5), (0.3, 0.6), (0.3, 0.6))
    picture = compose_reliability(before, after)
    area = picture[60:]  # below the legend
    low = np.argwhere((area == BEFORE).all(-1)).mean(0)
    kept = np.argwhere((area == AFTER).all(-1)).mean(0)
    assert low[1] - kept[1] == pytest.approx((0.9 - 0.45) * 320, abs=3)
    assert low[0] - kept[0] == pytest.approx((0.45 - 0.3) * 320, abs=3)
    alone = compose_reliability(before)
    assert not (alone == AFTER).all(-1).any()
    assert alone.shape[0] < picture.shape[0]


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[3, 3\]"):
        compose_confusion(np.zeros((2, 2)), ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"\[2, 4\]"):
        compose_confusion(np.zeros((2, 2)), ["a", "b"], multi_label=True)
