"""COCO's assignment, also where several objects want one."""

from __future__ import annotations

import numpy as np
import pytest

from monai_ext.evaluation.coco_ap import THRESHOLDS
from monai_ext.evaluation.coco_matching import Matches, match

EVERYTHING = np.array([[0, 1e10]])


def matches(
    overlaps: list[list[float]], crowd: list[bool] | None = None, ranges: np.ndarray = EVERYTHING, areas: float = 100.0
) -> Matches:
    """Of a table of found x annotated objects, the surest found one first."""
    table = np.array(overlaps)
    found, reference = np.nonzero(table >= THRESHOLDS[0])
    count, wanted = table.shape
    return match(
        np.linspace(0.9, 0.1, count),
        np.full(count, areas),
        np.full(wanted, 100.0),
        np.array(crowd if crowd is not None else [False] * wanted),
        (found, reference, table[found, reference]),
        THRESHOLDS,
        ranges,
    )


def plain(table: np.ndarray, crowd: np.ndarray, limit: float) -> list[int]:
    """Partner of every found object, -1 for none: the rule as words have it."""
    free = set(range(table.shape[1]))
    partners = []
    for row in table:
        for candidates in ([k for k in free if not crowd[k]], [k for k in range(len(crowd)) if crowd[k]]):
            good = [k for k in candidates if row[k] >= limit]
            if good:
                best = max(good, key=lambda k: row[k])
                free.discard(best)
                partners.append(best)
                break
        else:
            partners.append(-1)
    return partners


@pytest.mark.parametrize("seed", range(5))
def test_crowded_tables(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.random((30, 12)) * rng.choice([0.4, 1.0], (30, 12), p=[0.7, 0.3])
    crowd = np.arange(12) > 9
    result = matches(table.tolist(), crowd.tolist())
    assert result.positives.tolist() == [10]
    for t, threshold in enumerate(THRESHOLDS):
        partners = np.array(plain(table, crowd, threshold))
        assert (result.matched[0, t] == (partners >= 0)).all()
        assert (result.ignored[0, t] == ((partners >= 0) & crowd[partners])).all()
    assert 0 < result.matched[0, 5].sum() < 30


def test_the_surest_goes_first_and_others_take_what_is_left() -> None:
    result = matches([[0.6, 0.7], [0.55, 0.9], [0.0, 0.95]])
    assert result.matched[0, 0].tolist() == [True, True, False]  # the third one's object is taken, though it fits best
    assert result.matched[0, 3].tolist() == [True, False, False]
    assert result.matched[0, 5].tolist() == [False, True, False]  # at 0.75 the second one is the first that fits


def test_objects_of_other_sizes_are_ignored() -> None:
    large, small = [1000, 1e10], [0, 200]
    result = matches([[0.8], [0.0]], ranges=np.array([large, small]), areas=50.0)
    assert result.positives.tolist() == [0, 1]
    assert result.ignored[0, 0].tolist() == [True, True]  # one matches what is ignored, one is itself of another size
    assert result.ignored[1, 0].tolist() == [False, False]
    assert result.matched[1, 0].tolist() == [True, False]


def test_one_that_counts_goes_before_one_that_does_not() -> None:
    result = matches([[0.95, 0.6]], crowd=[True, False])
    assert not result.ignored[0, 0, 0]  # though the crowd region fits better
    assert result.ignored[0, 4, 0]  # at 0.70 only the crowd region is left


def test_nothing() -> None:
    none = np.zeros(0, dtype=np.int64)
    empty = match(np.zeros(0), np.zeros(0), np.zeros(0), none > 0, (none, none, np.zeros(0)), THRESHOLDS, EVERYTHING)
    assert empty.matched.shape == (1, 10, 0)
    assert empty.positives.tolist() == [0]
