"""How far the scores of a classifier may be off by chance."""

from __future__ import annotations

from typing import Any

import numpy as np

from monai_ext.evaluation.bootstrap import percentile_intervals, wilson_interval
from monai_ext.evaluation.classification_scores import ClassificationScores

INTERVAL_RULE = (
    "95 % percentile bootstrap over cases (over groups where there are any). Where no draw differs from the others, as "
    "without a single error, the interval of a proportion is Wilson's, and other scores have none."
)


def score_intervals(
    scores: ClassificationScores, draws: int, seed: int, groups: np.ndarray | None, ranking: bool
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """95 % intervals of all scores, by `INTERVAL_RULE`.

    Args:
        scores: of the N cases.
        draws: of the bootstrap.
        seed: same seed, same intervals.
        groups: `[N]` names of groups that are drawn whole, or None.
        ranking: with areas under curves, which cost most.

    Returns:
        Score to lower and upper bound: scalars, `[K]` for scores per class; NaN for none.
    """

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        return scores.all(weights, ranking)

    intervals = percentile_intervals(statistic, len(scores), draws, seed, groups)
    # how many independent trials stand behind a score without spread
    share = 1.0 if groups is None else len(np.unique(groups)) / len(scores)
    trials = _trials(scores)
    values = scores.all(ranking=ranking)
    for name, (low, high) in intervals.items():
        lows, highs, value = np.atleast_1d(low), np.atleast_1d(high), np.atleast_1d(values[name][0])
        counts = np.broadcast_to(share * np.asarray(trials.get(name, np.nan), dtype=np.float64), lows.shape)
        for k in np.flatnonzero(lows == highs):
            lows[k], highs[k] = wilson_interval(counts[k] * value[k], counts[k])
        intervals[name] = (lows, highs) if np.ndim(low) else (lows[0], highs[0])
    return intervals


def _trials(scores: ClassificationScores) -> dict[str, Any]:
    """Of the scores that are proportions: of how many cases, `[K]` of those per class."""
    positive = scores.positive.sum(0)
    return {
        **dict.fromkeys(("accuracy", "top5_accuracy", "decision_accuracy"), len(scores)),
        "sensitivity": positive,
        "specificity": len(scores) - positive,
        "precision": scores.predicted.sum(0),
    }
