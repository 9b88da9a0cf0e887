"""Calibration error and temperature."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from monai_ext.errors import InputError
from monai_ext.evaluation.calibration import (
    TEMPERATURE_RANGE,
    Temperature,
    brier_score,
    cross_fitted_temperatures,
    fit_temperature,
    fitted_temperature,
    negative_log_likelihood,
    reliability_bins,
)
from monai_ext.evaluation.classification_scores import class_probabilities


def honest_cases(count: int, multi_label: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels drawn from exactly the probabilities that they state."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(count, 3))
    probabilities = class_probabilities(logits, multi_label)
    if multi_label:
        return logits, (rng.random((count, 3)) < probabilities).astype(np.int64)
    return logits, (rng.random((count, 1)) > probabilities.cumsum(1)).sum(1).clip(0, 2)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_temperature_undoes_a_factor(multi_label: bool, factor: float) -> None:
    logits, labels = honest_cases(6000, multi_label)
    found = fit_temperature(factor * logits, labels, multi_label)
    assert found == pytest.approx(factor, rel=0.06)  # about two standard errors of 6000 cases
    before = reliability_bins(class_probabilities(factor * logits, multi_label), labels, multi_label)
    after = reliability_bins(class_probabilities(factor * logits, multi_label, found), labels, multi_label)
    assert after.expected_error < 0.02
    if factor != 1:
        assert before.expected_error > 3 * after.expected_error
    nll = negative_log_likelihood(factor * logits, labels, multi_label, found)
    for other in (0.95 * found, 1.05 * found):
        assert nll < negative_log_likelihood(factor * logits, labels, multi_label, other)


@pytest.mark.parametrize("count", [20, 200])
@pytest.mark.parametrize("multi_label", [False, True])
def test_without_errors_confidence_stays_below_certainty(count: int, multi_label: bool) -> None:
    """As if one more case of unknown class had been seen: mean probability of the truth 1 - (1 - 1/K) / (N + 1)."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (count, 4)) if multi_label else rng.integers(0, 4, count)
    flags = labels if multi_label else np.eye(4)[labels]
    logits = 10 * flags - 5.0
    temperature = fit_temperature(logits, labels, multi_label)
    assert TEMPERATURE_RANGE[0] < temperature < TEMPERATURE_RANGE[1]
    probabilities = class_probabilities(logits, multi_label, temperature)
    truth = np.where(flags == 1, probabilities, 1 - probabilities)[slice(None) if multi_label else flags == 1]
    missing = (0.5 if multi_label else 0.75) / (count + 1)
    assert 1 - truth.mean() == pytest.approx(missing, rel=1e-3)


def test_logits_that_say_nothing_or_the_contrary() -> None:
    labels = np.array([0, 1, 1, 0])
    assert fit_temperature(np.full((4, 2), 3.0), labels) == 1
    assert fit_temperature(np.empty((0, 2)), np.empty(0, int)) == 1
    assert fit_temperature(5 * np.eye(2)[1 - labels], labels) == TEMPERATURE_RANGE[1]
    assert fit_temperature(1e-4 * np.eye(2)[labels], labels) == TEMPERATURE_RANGE[0]


def test_error_of_hand_made_bins() -> None:
    """Two cases at 0.9, one of them right, two at 0.6, both right: (2 * 0.4 + 2 * 0.4) / 4."""
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    bins = reliability_bins(probabilities, np.array([0, 1, 1, 1]), num_bins=10)
    assert bins.expected_error == pytest.approx(0.4)
    assert bins.count == (0, 0, 0, 0, 0, 2, 0, 0, 2, 0)  # a bin holds its upper bound
    assert bins.confidence[8] == pytest.approx(0.9)
    assert bins.accuracy[8] == pytest.approx(0.5)
    assert np.isnan(bins.accuracy[0])
    both = reliability_bins(np.array([[0.0, 1.0]]), np.array([[0, 1]]), multi_label=True)
    assert (both.count[0], both.count[-1], both.expected_error) == (1, 1, 0)


def test_likelihood_and_brier_score() -> None:
    logits, labels = honest_cases(50, False)
    assert negative_log_likelihood(logits, labels, temperature=2.0) == pytest.approx(
        float(cross_entropy(torch.tensor(logits) / 2, torch.tensor(labels)))
    )
    several, flags = honest_cases(50, True)
    assert negative_log_likelihood(several, flags, True) == pytest.approx(
        float(binary_cross_entropy_with_logits(torch.tensor(several), torch.tensor(flags).double()))
    )
    assert brier_score(np.array([[0.7, 0.3]]), np.array([1])) == pytest.approx(0.98)
    assert brier_score(np.array([[0.7, 0.3]]), np.array([[1, 0]]), multi_label=True) == pytest.approx(0.09)


def test_no_case_is_scored_with_a_temperature_that_saw_it() -> None:
    logits, labels = honest_cases(300, False)
    temperatures = cross_fitted_temperatures(3 * logits, labels)
    values = np.unique(temperatures)
    assert len(values) == 2
    assert values == pytest.approx([3, 3], rel=0.4)
    first = temperatures == values[0]
    changed = np.where(first, (labels + 1) % 3, labels)  # other labels in one half: its own temperature stays
    again = cross_fitted_temperatures(3 * logits, changed)
    assert (again[first] == values[0]).all()
    assert (again[~first] != values[1]).all()


def test_groups_stay_in_one_half() -> None:
    logits, labels = honest_cases(120, False)
    groups = np.array([f"patient {i % 7}" for i in range(120)])
    temperatures = cross_fitted_temperatures(logits, labels, groups=groups)
    assert len(np.unique(temperatures)) == 2
    for name in np.unique(groups):
        assert len(np.unique(temperatures[groups == name])) == 1
    alone = cross_fitted_temperatures(logits, labels, groups=np.zeros(120))
    assert (alone == 1).all()  # one group: there are no other cases


def test_stored_temperature(tmp_path: Path) -> None:
    logits, labels = honest_cases(400, False)
    fitted = fitted_temperature(3 * logits, labels, model_sha256="abc")
    assert fitted.nll_after < fitted.nll_before
    fitted.save(tmp_path / "calibration.json")
    assert Temperature.load(tmp_path / "calibration.json") == fitted
    content = json.loads((tmp_path / "calibration.json").read_text())
    for broken in ({**content, "temperature": 0}, {**content, "temperature": "x"}, {"temperature": 1}, []):
        (tmp_path / "calibration.json").write_text(json.dumps(broken))
        with pytest.raises(InputError, match=r"calibration.json.*Cure"):
            Temperature.load(tmp_path / "calibration.json")
    with pytest.raises(InputError, match="Cure"):
        Temperature.load(tmp_path / "none.json")
