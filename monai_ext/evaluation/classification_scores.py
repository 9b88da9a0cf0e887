"""Scores of a classifier from its probabilities, of every case once or of cases weighted as a bootstrap draws them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property

import numpy as np

PER_CLASS = ("sensitivity", "specificity", "precision", "f1", "roc_auc", "average_precision")
UNDEFINED_RULE = (
    "A score that is undefined is null: sensitivity and average precision of a class without cases, specificity of one "
    "that all cases have, precision of one that is never predicted, F1 of one that is neither, ROC AUC without either "
    "cases or others. Macro means are over the classes where the score is defined."
)


def class_probabilities(logits: np.ndarray, multi_label: bool, temperature: float | np.ndarray = 1.0) -> np.ndarray:
    """Softmax, or sigmoid of a multi-label classifier, of logits divided by a temperature.

    Args:
        logits: `[N, K]`, finite.
        multi_label: an image may have several classes.
        temperature: one number above 0, or one per case `[N]`.

    Returns:
        `[N, K]` float64.

    Raises:
        ValueError: logits are not `[N, K]` or not finite, or a temperature is not above 0.
    """
    if logits.ndim != 2 or not np.isfinite(logits).all():
        raise ValueError(f"logits must be [N, K] and finite, got shape {logits.shape}")
    divisor = np.broadcast_to(np.asarray(temperature, dtype=np.float64), (len(logits),))
    if not (divisor > 0).all():
        raise ValueError(f"temperature must be above 0, got {temperature}")
    scaled = logits.astype(np.float64) / divisor[:, None]
    if multi_label:
        small = np.exp(-np.abs(scaled))  # never overflows
        return np.where(scaled >= 0, 1, small) / (1 + small)
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts `[K, K]` int64: row true class, column predicted class; of labels and predictions `[N]`."""
    cells = labels.astype(np.int64) * num_classes + predicted.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def label_counts(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Counts `[K, 4]` int64 of a multi-label classifier, of labels and decisions `[N, K]`: TP, FN, FP, TN."""
    y, p = labels.astype(bool), predicted.astype(bool)
    return np.stack([(y & p).sum(0), (y & ~p).sum(0), (~y & p).sum(0), (~y & ~p).sum(0)], 1)


class ClassificationScores:
    """Scores as functions of the weight that every case has.

    With all weights 1 they are the plain scores. A bootstrap draw is a weight per case, the number of times it was
    drawn, so that cases are compared and sorted once and not for every draw.

    Top-k counts a case as right if fewer than k classes are more probable than the true one; of equals the first in
    the order of classes counts as more probable, as in `argmax`. ROC AUC counts ties half (Hanley and McNeil 1982);
    average precision is the step-wise sum over distinct thresholds, without interpolation.

    Args:
        probabilities: `[N, K]`.
        labels: `[N]` class indices, or `[N, K]` of 0 and 1 if `multi_label`.
        multi_label: an image may have several classes or none.
        thresholds: of a multi-label decision, one or one per class; otherwise the most probable class is predicted.

    Attributes:
        positive, predicted: `[N, K]` bool.
        labels, chosen: `[N]` int64 true and predicted classes; empty if `multi_label`.

    Raises:
        ValueError: shapes do not fit, or a label is not one of the classes.
    """

    def __init__(
        self,
        probabilities: np.ndarray,
        labels: np.ndarray,
        multi_label: bool = False,
        thresholds: float | Sequence[float] = 0.5,
    ) -> None:
        count, num_classes = probabilities.shape
        expected = (count, num_classes) if multi_label else (count,)
        if labels.shape != expected:
            raise ValueError(f"labels must be {expected} for probabilities {probabilities.shape}, got {labels.shape}")
        highest = 1 if multi_label else num_classes - 1
        if count and not 0 <= labels.min() <= labels.max() <= highest:
            raise ValueError(f"labels must be 0 to {highest}, got {labels.min()} to {labels.max()}")
        self.probabilities = probabilities
        self.multi_label = multi_label
        self.labels = np.empty(0, dtype=np.int64) if multi_label else labels.astype(np.int64)
        self.chosen = np.empty(0, dtype=np.int64) if multi_label else probabilities.argmax(1)
        if multi_label:
            self.positive = labels > 0.5
            self.predicted = probabilities >= np.asarray(thresholds, dtype=np.float64)
        else:
            indices = np.arange(num_classes)
            self.positive = self.labels[:, None] == indices
            self.predicted = self.chosen[:, None] == indices

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def num_classes(self) -> int:
        return int(self.probabilities.shape[1])

    def overall(self, weights: np.ndarray | None = None, ranking: bool = True) -> dict[str, np.ndarray]:
        """Scores of all classes together.

        Args:
            weights: `[D, N]`, not negative; None: one draw with every case once.
            ranking: with ROC AUC and average precision, which cost most.

        Returns:
            Score to `[D]` float64: `accuracy` (multi-label: all classes of a case right), `top5_accuracy` (only with
            more than 5 classes), `balanced_accuracy` (mean sensitivity; multi-label: mean over classes of half the sum
            of sensitivity and specificity), `decision_accuracy` and `micro_f1` (multi-label: all decisions pooled),
            and `macro_` means of the scores per class.
        """
        weights = self._weights(weights)
        return self._overall(weights, self.per_class(weights, ranking))

    def all(self, weights: np.ndarray | None = None, ranking: bool = True) -> dict[str, np.ndarray]:
        """What `overall` and `per_class` give, in one pass."""
        weights = self._weights(weights)
        classes = self.per_class(weights, ranking)
        return self._overall(weights, classes) | classes

    def _overall(self, weights: np.ndarray, classes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        total = weights.sum(1)
        right = (self.positive == self.predicted).all(1)
        scores = {"accuracy": _ratio(weights @ right, total)}
        if self.multi_label:
            tp, fp, fn, tn = (counts.sum(1) for counts in self._counts(weights))
            halves = (classes["sensitivity"] + classes["specificity"]) / 2
            scores["balanced_accuracy"] = _mean_of_defined(halves)
            scores["decision_accuracy"] = _ratio(tp + tn, tp + fp + fn + tn)
            scores["micro_f1"] = _ratio(2 * tp, 2 * tp + fp + fn)
        else:
            if self.num_classes > 5:
                scores["top5_accuracy"] = _ratio(weights @ (self.ranks < 5), total)
            scores["balanced_accuracy"] = _mean_of_defined(classes["sensitivity"])
        return scores | {f"macro_{name}": _mean_of_defined(values) for name, values in classes.items()}

    def per_class(self, weights: np.ndarray | None = None, ranking: bool = True) -> dict[str, np.ndarray]:
        """Scores of each class against all others: names of `PER_CLASS` to `[D, K]` float64, NaN where undefined."""
        weights = self._weights(weights)
        tp, fp, fn, tn = self._counts(weights)
        scores = {
            "sensitivity": _ratio(tp, tp + fn),
            "specificity": _ratio(tn, tn + fp),
            "precision": _ratio(tp, tp + fp),
            "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        }
        if ranking:
            areas = [ranked.areas(weights) for ranked in self._rankings]
            scores["roc_auc"] = np.stack([roc for roc, _ in areas], 1)
            scores["average_precision"] = np.stack([precision for _, precision in areas], 1)
        return scores

    @cached_property
    def ranks(self) -> np.ndarray:
        """`[N]`: how many classes are more probable than the true one."""
        own = np.take_along_axis(self.probabilities, self.labels[:, None], 1)
        earlier = np.arange(self.num_classes) < self.labels[:, None]
        return ((self.probabilities > own) | ((self.probabilities == own) & earlier)).sum(1)

    @cached_property
    def _rankings(self) -> list[RankedCases]:
        return [RankedCases(self.probabilities[:, k], self.positive[:, k]) for k in range(self.num_classes)]

    def _weights(self, weights: np.ndarray | None) -> np.ndarray:
        return np.ones((1, len(self)), dtype=np.float64) if weights is None else weights.astype(np.float64, copy=False)

    def _counts(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        tp = weights @ (self.positive & self.predicted)
        fn = weights @ self.positive - tp
        fp = weights @ self.predicted - tp
        return tp, fp, fn, weights.sum(1, keepdims=True) - tp - fp - fn


class RankedCases:
    """Cases of one class in the order of their score, for areas under curves.

    Args:
        scores: `[N]`, higher for the class.
        positive: `[N]` bool.
    """

    def __init__(self, scores: np.ndarray, positive: np.ndarray) -> None:
        self.order = np.argsort(scores, kind="stable")
        ordered, flags = scores[self.order], positive[self.order]
        self.positives = np.flatnonzero(flags)
        # cases of lower score, and of lower or equal score: all of them, and those with the class
        own = ordered[self.positives]
        self.lower, self.upto = (np.searchsorted(ordered, own, side) for side in ("left", "right"))
        self.lower_found, self.upto_found = (np.searchsorted(own, own, side) for side in ("left", "right"))

    def areas(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ROC AUC and average precision `[D]` of weighted cases `[D, N]`; NaN where undefined."""
        ordered = weights[:, self.order]
        with_class = ordered[:, self.positives]
        everything, found = _sums_before(ordered), _sums_before(with_class)
        total, positives = everything[:, -1:], found[:, -1:]
        below = everything[:, self.lower] - found[:, self.lower_found]
        upto = everything[:, self.upto] - found[:, self.upto_found]
        roc = _ratio((with_class * (below + upto)).sum(1) / 2, (positives * (total - positives))[:, 0])
        called = total - everything[:, self.lower]
        precision = np.divide(
            positives - found[:, self.lower_found], called, out=np.zeros_like(called), where=called > 0
        )
        return roc, _ratio((with_class * precision).sum(1), positives[:, 0])


def _sums_before(values: np.ndarray) -> np.ndarray:
    """`[D, N + 1]`: sum of the first 0 to N columns of `[D, N]`."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    undefined = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all undefined: the mean is too
        return np.asarray(np.nanmean(values, axis=1))
