"""Intervals of scores from cases drawn anew (Efron and Tibshirani 1993)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping

import numpy as np

Statistic = Callable[[np.ndarray], Mapping[str, np.ndarray]]
CHUNK_VALUES = 2_000_000  # draws times cases that are held at once


def draw_weights(count: int, draws: int, rng: np.random.Generator, groups: np.ndarray | None = None) -> np.ndarray:
    """How often each case is drawn.

    Args:
        count: cases N.
        draws: D; each draws as many cases (or groups) as there are, with replacement.
        rng: numpy's generator.
        groups: `[N]` names, such as patients: whole groups are drawn, as their cases are alike; None: cases.

    Returns:
        `[D, N]` float64 whole numbers.
    """
    members = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    units = int(members.max()) + 1 if count else 0
    drawn = rng.integers(0, max(units, 1), (draws, units)) + units * np.arange(draws)[:, None]
    times = np.bincount(drawn.ravel(), minlength=draws * units).reshape(draws, units)
    return times[:, members].astype(np.float64)


def percentile_intervals(
    statistic: Statistic,
    count: int,
    draws: int = 1000,
    seed: int = 0,
    groups: np.ndarray | None = None,
    level: float = 0.95,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Percentile intervals of scores.

    Draws in which a score is undefined (a rare class was not drawn) are left out of its interval.

    Args:
        statistic: takes weights `[D, N]` of the cases to scores, each `[D]` or `[D, K]`.
        count: cases N.
        draws: 1000 give the bounds of a 95 % interval to about a tenth of its half width.
        seed: same seed, same intervals.
        groups: see `draw_weights`.
        level: share of draws within.

    Returns:
        Score to its lower and upper bound, scalars or `[K]`; NaN where no draw defines it.

    Raises:
        ValueError: no cases, no draws, or a level outside 0 to 1.
    """
    if count < 1 or draws < 1 or not 0 < level < 1:
        raise ValueError(f"count and draws must be at least 1, level between 0 and 1, got {count}, {draws}, {level}")
    rng = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {}
    remaining = draws
    while remaining:
        now = min(remaining, max(1, CHUNK_VALUES // count))
        for name, values in statistic(draw_weights(count, now, rng, groups)).items():
            parts.setdefault(name, []).append(values)
        remaining -= now
    tails = ((1 - level) / 2, (1 + level) / 2)
    intervals = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # undefined in all draws: so is the interval
        for name, pieces in parts.items():
            low, high = np.nanquantile(np.concatenate(pieces), tails, axis=0)
            intervals[name] = (low, high)
    return intervals


def wilson_interval(successes: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927), which says something even where all trials agree.

    A bootstrap of cases that are all right draws nothing but right ones: its interval would be one point.

    Returns:
        Lower and upper bound; NaN without trials.
    """
    from scipy.stats import norm

    if not trials > 0:  # NaN too
        return math.nan, math.nan
    z = float(norm.ppf((1 + level) / 2))
    share = successes / trials
    middle = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return max(0.0, middle - half), min(1.0, middle + half)
