"""Bootstrap intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from monai_ext.evaluation.bootstrap import Statistic, draw_weights, percentile_intervals, wilson_interval


def share(right: np.ndarray) -> Statistic:
    return lambda weights: {"accuracy": weights @ right / weights.sum(1)}


def test_weights_are_whole_draws() -> None:
    weights = draw_weights(50, 200, np.random.default_rng(0))
    assert weights.shape == (200, 50)
    assert (weights.sum(1) == 50).all()
    assert weights.mean(0) == pytest.approx(np.ones(50), abs=0.3)  # four standard errors of 200 draws
    assert (weights == 0).mean() == pytest.approx(math.exp(-1), abs=0.02)


def test_groups_are_drawn_whole() -> None:
    groups = np.array(["b", "a", "b", "c"])
    weights = draw_weights(4, 100, np.random.default_rng(0), groups)
    assert (weights[:, 0] == weights[:, 2]).all()
    units = weights[:, [1, 0, 3]]
    assert (units.sum(1) == 3).all()
    assert not (weights[:, 0] == weights[:, 1]).all()


def test_interval_is_that_of_theory() -> None:
    right = np.r_[np.ones(320), np.zeros(80)]
    low, high = percentile_intervals(share(right), 400, 4000)["accuracy"]
    half = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert low == pytest.approx(0.8 - half, abs=0.006)  # accuracies come in steps of 1/400
    assert high == pytest.approx(0.8 + half, abs=0.006)


def test_alike_cases_of_a_group_widen_it() -> None:
    """16 cases of a patient that are right or wrong together say no more than one: four times the width."""
    right = np.repeat(np.r_[np.ones(40), np.zeros(10)], 16)
    groups = np.repeat(np.arange(50), 16)
    single = percentile_intervals(share(right), 800, 2000)["accuracy"]
    grouped = percentile_intervals(share(right), 800, 2000, groups=groups)["accuracy"]
    assert (grouped[1] - grouped[0]) / (single[1] - single[0]) == pytest.approx(4, rel=0.15)


def test_seed_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    right = np.random.default_rng(1).random(60)
    first = percentile_intervals(share(right), 60, 300, seed=3)["accuracy"]
    assert first == percentile_intervals(share(right), 60, 300, seed=3)["accuracy"]
    assert first != percentile_intervals(share(right), 60, 300, seed=4)["accuracy"]
    monkeypatch.setattr("monai_ext.evaluation.bootstrap.CHUNK_VALUES", 6000)  # three chunks of 100 draws
    chunked = percentile_intervals(share(right), 60, 300, seed=3)["accuracy"]
    assert chunked == pytest.approx(first, abs=0.02)


def test_undefined_draws_are_left_out() -> None:
    """A class with one case of three is missing from 8 of 27 draws; wherever it is, its score is 1."""
    flags = np.array([1.0, 0.0, 0.0])

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        drawn = weights @ flags
        rare = np.where(drawn > 0, 1.0, np.nan)
        return {"classes": np.stack([rare, np.full(len(weights), np.nan)], 1)}

    low, high = percentile_intervals(statistic, 3, 500)["classes"]
    assert (low[0], high[0]) == (1, 1)
    assert np.isnan([low[1], high[1]]).all()


def test_wilson_interval() -> None:
    """Published values of Newcombe 1998, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson_interval(20, 20)[0] == pytest.approx(1 - 0.1611, abs=5e-5)
    assert np.isnan(wilson_interval(0, 0)).all()


def test_wrong_numbers_are_refused() -> None:
    for count, draws, level in ((0, 10, 0.95), (5, 0, 0.95), (5, 10, 1.0)):
        with pytest.raises(ValueError, match="must be"):
            percentile_intervals(share(np.ones(5)), count, draws, level=level)
