"""Pooled intensity statistics against numpy on all values."""

from __future__ import annotations

import numpy as np
import pytest

from monai_ext.planning.intensity_summary import MAX_VALUES, pool_summaries, summarize, summary_length


def test_one_case_with_known_percentiles() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1001.0))
    found = pool_summaries([summarize(values, 5000)])
    assert (found.mean, found.median, found.minimum, found.maximum) == (500.0, 500.0, 0.0, 1000.0)
    assert found.std == pytest.approx(values.std(), rel=1e-12)
    # a value stands in the middle of its weight: 0.5 % of 1001 values is position 5.005, half a value less is 4.505
    assert found.percentile_00_5 == pytest.approx(4.505, abs=1e-3)
    assert found.percentile_99_5 == pytest.approx(995.495, abs=1e-3)


def test_every_case_weighs_the_same_however_many_voxels_it_has() -> None:
    small, large = np.full(10, 0.0), np.full(10_000, 100.0)
    found = pool_summaries([summarize(small, 1000), summarize(small, 1000), summarize(large, 1000)])
    assert found.mean == pytest.approx(100 / 3)
    assert found.std == pytest.approx(np.std([0, 0, 100]))
    assert found.median == 0.0


def test_thinned_values_keep_the_percentiles() -> None:
    rng = np.random.default_rng(1)
    cases = [rng.normal(40 + i, 10, size=200_000).astype(np.float32) for i in range(5)]
    found = pool_summaries([summarize(case, 2000) for case in cases])
    pooled = np.concatenate(cases).astype(np.float64)
    # moments do not use the thinned values; float32 input summed in float64
    assert found.mean == pytest.approx(pooled.mean(), rel=1e-9)
    assert found.std == pytest.approx(pooled.std(), rel=1e-9)
    low, median, high = np.percentile(pooled, [0.5, 50, 99.5])
    # ranks are off by at most 1/4000 of a case; the density at 0.5 % of a normal is 0.0145 / 10 per unit
    slack = 1 / 4000 / 0.00145
    assert found.percentile_00_5 == pytest.approx(low, abs=slack)
    assert found.percentile_99_5 == pytest.approx(high, abs=slack)
    assert found.median == pytest.approx(median, abs=1 / 4000 / 0.0390 * 2)


def test_large_offsets_do_not_swamp_the_deviation() -> None:
    values = np.array([1e6, 1e6 + 1, 1e6 + 2])
    assert pool_summaries([summarize(values, 10)]).std == pytest.approx(np.sqrt(2 / 3), rel=1e-9)


@pytest.mark.parametrize(("cases", "channels"), [(1, 1), (20, 4), (484, 4), (23_000, 1), (30_000_000, 1)])
def test_kept_values_are_bounded(cases: int, channels: int) -> None:
    kept = summary_length(cases, channels)
    assert kept >= 1
    assert kept == 1 or kept * cases * channels <= MAX_VALUES
    assert len(summarize(np.arange(50.0), kept).values) <= kept
