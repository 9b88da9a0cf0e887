"""Foreground intensities of many cases in bounded memory: exact moments, percentiles from thinned sorted values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monai_ext.planning.plan import ChannelIntensity

MAX_VALUES = 4_000_000
MAX_VALUES_PER_CASE = 100_000


@dataclass(frozen=True)
class ChannelSummary:
    """One channel of one case over its foreground voxels.

    Attributes:
        mean: exact, float64.
        variance: exact, float64.
        minimum: exact.
        maximum: exact.
        values: `[n]` float32, sorted; all values, or those at evenly spaced ranks.
    """

    mean: float
    variance: float
    minimum: float
    maximum: float
    values: np.ndarray


def summary_length(num_cases: int, num_channels: int) -> int:
    """Values kept per case and channel, so that all cases and channels together keep at most `MAX_VALUES`.

    With k values kept, the share of voxels below any intensity is off by at most 1 / (2 k) for a case.
    """
    return max(1, min(MAX_VALUES_PER_CASE, MAX_VALUES // (num_cases * num_channels)))


def summarize(values: np.ndarray, keep: int) -> ChannelSummary:
    """Sum up `[n]` intensities (n > 0), keeping at most `keep` of them."""
    ordered = np.sort(values.astype(np.float32, copy=False))
    mean, variance = ordered.mean(dtype=np.float64), ordered.var(dtype=np.float64)
    minimum, maximum = ordered[0], ordered[-1]
    if len(ordered) > keep:
        # the middle of each of `keep` equal parts
        ranks = ((np.arange(keep) + 0.5) * (len(ordered) / keep)).astype(np.int64)
        ordered = ordered[ranks]
    return ChannelSummary(
        mean=float(mean),
        variance=float(variance),
        minimum=float(minimum),
        maximum=float(maximum),
        values=ordered,
    )


def pool_summaries(cases: Sequence[ChannelSummary]) -> ChannelIntensity:
    """Statistics of the mixture in which every case has the same weight."""
    mean = sum(c.mean for c in cases) / len(cases)
    variance = sum(c.variance + (c.mean - mean) ** 2 for c in cases) / len(cases)
    low, median, high = _percentiles([c.values for c in cases], (0.5, 50.0, 99.5))
    return ChannelIntensity(
        mean=mean,
        std=math.sqrt(variance),
        median=median,
        minimum=min(c.minimum for c in cases),
        maximum=max(c.maximum for c in cases),
        percentile_00_5=low,
        percentile_99_5=high,
    )


def _percentiles(cases: Sequence[np.ndarray], percents: Sequence[float]) -> list[float]:
    """Interpolate between values placed at the middle of their weight; each case weighs 1 in all."""
    values = np.concatenate(cases)
    weights = np.concatenate([np.full(len(c), 1.0 / len(c), dtype=np.float32) for c in cases])
    order = np.argsort(values, kind="stable")
    ordered, weights = values[order], weights[order].astype(np.float64)
    position = np.cumsum(weights) - weights / 2
    return [float(np.interp(p / 100 * weights.sum(), position, ordered)) for p in percents]
