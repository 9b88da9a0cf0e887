"""How far probabilities can be believed, and one temperature that corrects them (Guo et al. 2017)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from monai_ext.atomic_files import write_text
from monai_ext.errors import InputError
from monai_ext.evaluation.classification_scores import class_probabilities

CALIBRATION_FILE = "calibration.json"
TEMPERATURE_RANGE = (0.01, 100.0)
CROSS_FIT_RULE = (
    "Calibration after correction is cross-fitted: cases are drawn into two halves (groups stay whole), and each half "
    "is scored with the temperature fitted on the other. The stored temperature is fitted on all of these cases."
)


@dataclass(frozen=True)
class ReliabilityBins:
    """Cases by confidence, in bins of equal width.

    Attributes:
        count: cases per bin.
        confidence: mean confidence per bin, NaN in an empty one.
        accuracy: share that is right per bin, NaN in an empty one.
    """

    count: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]

    @property
    def expected_error(self) -> float:
        """Expected calibration error: mean over cases of the distance between confidence and accuracy of their bin."""
        total = sum(self.count)
        gaps = [n * abs(c - a) for n, c, a in zip(self.count, self.confidence, self.accuracy, strict=True) if n]
        return sum(gaps) / total if total else math.nan


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature, as `calibration.json` beside a model holds it.

    Attributes:
        temperature: logits are divided by it.
        cases: it was fitted on.
        nll_before, nll_after: mean negative log-likelihood of those cases, nats.
        model_sha256: digest of the model file whose logits these were; "" unknown.
    """

    temperature: float
    cases: int
    nll_before: float
    nll_after: float
    model_sha256: str = ""

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Temperature:
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing, or holds no temperature above 0.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            loaded = cls(**{name: content[name] for name in cls.__dataclass_fields__})
            valid = math.isfinite(loaded.temperature) and loaded.temperature > 0
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(
                f"{path}: is no calibration ({type(error).__name__}: {error}). Cure: evaluate the model anew"
            ) from error
        if not valid:
            raise InputError(f"{path}: temperature {loaded.temperature}: must be above 0. Cure: evaluate anew")
        return loaded


def reliability_bins(
    probabilities: np.ndarray, labels: np.ndarray, multi_label: bool = False, num_bins: int = 15
) -> ReliabilityBins:
    """Confidence and accuracy of cases in bins.

    Confidence is the probability of the most probable class, right if that is the true one; of a multi-label
    classifier every probability counts, right as often as its class is there.

    Args:
        probabilities: `[N, K]`.
        labels: `[N]` class indices, or `[N, K]` of 0 and 1.
        multi_label: which of both.
        num_bins: from 0 to 1; 15 as in Guo et al. 2017.
    """
    if multi_label:
        confidence, right = probabilities.ravel(), (labels > 0.5).ravel()
    else:
        confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    sums = [np.bincount(bins, weights=values, minlength=num_bins) for values in (confidence, right)]
    means = [np.divide(s, count, out=np.full(num_bins, np.nan), where=count > 0) for s in sums]
    return ReliabilityBins(tuple(count.tolist()), tuple(means[0].tolist()), tuple(means[1].tolist()))


def brier_score(probabilities: np.ndarray, labels: np.ndarray, multi_label: bool = False) -> float:
    """Mean over cases of the squared distance between probabilities and outcome (Brier 1950).

    Summed over classes, 0 to 2; of a multi-label classifier the mean over classes, 0 to 1.
    """
    squares = (probabilities - _outcomes(labels, probabilities.shape[1], multi_label)) ** 2
    return float(squares.mean() if multi_label else squares.sum(1).mean())


def negative_log_likelihood(
    logits: np.ndarray, labels: np.ndarray, multi_label: bool = False, temperature: float | np.ndarray = 1.0
) -> float:
    """Mean over cases (multi-label: and classes) of the negative log-likelihood in nats.

    Args:
        logits: `[N, K]`.
        labels: `[N]` class indices, or `[N, K]` of 0 and 1.
        multi_label: which of both.
        temperature: one, or one per case `[N]`.
    """
    scaled = logits.astype(np.float64) / np.broadcast_to(np.asarray(temperature, float), (len(logits),))[:, None]
    outcomes = _outcomes(labels, logits.shape[1], multi_label)
    if multi_label:
        return float((np.logaddexp(0, scaled) - outcomes * scaled).mean())
    highest = scaled.max(1)
    partition = highest + np.log(np.exp(scaled - highest[:, None]).sum(1))
    return float((partition - (outcomes * scaled).sum(1)).mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray, multi_label: bool = False) -> float:
    """Temperature with the least negative log-likelihood, between 0.01 and 100.

    In the inverse temperature the likelihood is convex, so the root of its derivative is the minimum. Where every case
    is right there would be none: confidence would grow without end. As in Platt 1999 targets are therefore a little
    less certain than the labels: as if one more case had been seen whose class is unknown, a class has probability
    (n + 1 / K) / (N + 1) instead of n / N. That matters with few cases and vanishes with many.

    Args:
        logits: `[N, K]`, finite.
        labels: `[N]` class indices, or `[N, K]` of 0 and 1.
        multi_label: which of both; all classes share one temperature.

    Returns:
        The temperature; 1 without cases or if all logits of every case are equal.
    """
    from scipy.optimize import brentq

    count, num_classes = logits.shape
    z = logits.astype(np.float64)
    if not count or not (z if multi_label else z - z[:, :1]).any():
        return 1.0
    guess = 1 / (2 if multi_label else num_classes)
    targets = (_outcomes(labels, num_classes, multi_label) * count + guess) / (count + 1)
    expected = (targets * z).sum()

    def slope(log_temperature: float) -> float:
        return float((class_probabilities(z, multi_label, math.exp(log_temperature)) * z).sum() - expected)

    low, high = (math.log(bound) for bound in TEMPERATURE_RANGE)
    if slope(low) <= 0:  # even the sharpest is not sharp enough
        return TEMPERATURE_RANGE[0]
    if slope(high) >= 0:  # worse than guessing
        return TEMPERATURE_RANGE[1]
    return math.exp(brentq(slope, low, high, xtol=1e-6))


def fitted_temperature(
    logits: np.ndarray, labels: np.ndarray, multi_label: bool = False, model_sha256: str = ""
) -> Temperature:
    """`fit_temperature` on all cases, with what is to be recorded of it."""
    value = fit_temperature(logits, labels, multi_label)
    before = negative_log_likelihood(logits, labels, multi_label)
    after = negative_log_likelihood(logits, labels, multi_label, value)
    return Temperature(value, len(logits), before, after, model_sha256)


def cross_fitted_temperatures(
    logits: np.ndarray,
    labels: np.ndarray,
    multi_label: bool = False,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """A temperature per case, fitted without that case: two halves, each with the temperature of the other.

    Args:
        logits: `[N, K]`, finite.
        labels: `[N]` class indices, or `[N, K]` of 0 and 1.
        multi_label: which of both.
        groups: `[N]` names, such as patients, that stay in one half; None: every case by itself.
        seed: of the draw.

    Returns:
        `[N]` float64; 1 for a half whose other half has no cases.
    """
    count = len(logits)
    members = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(int(members.max()) + 1 if count else 0)
    second = np.zeros(len(order), dtype=bool)
    second[order[: len(order) // 2]] = True
    in_second = second[members]
    temperatures = np.ones(count)
    for half in (in_second, ~in_second):
        temperatures[half] = fit_temperature(logits[~half], labels[~half], multi_label)
    return temperatures


def _outcomes(labels: np.ndarray, num_classes: int, multi_label: bool) -> np.ndarray:
    """`[N, K]` float64 of 0 and 1."""
    if multi_label:
        return (labels > 0.5).astype(np.float64)
    return (labels.astype(np.int64)[:, None] == np.arange(num_classes)).astype(np.float64)
