"""Scores of a classifier against hand-made cases and MONAI's metrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_average_precision, compute_roc_auc, get_confusion_matrix

from monai_ext.evaluation.classification_scores import (
    PER_CLASS,
    ClassificationScores,
    class_probabilities,
    confusion_matrix,
    label_counts,
)


def cases(
    count: int = 200, num_classes: int = 4, multi_label: bool = False, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits rounded so that many are equal, and labels that they half follow."""
    rng = np.random.default_rng(seed)
    if multi_label:
        labels = (rng.random((count, num_classes)) < 0.3).astype(np.int64)
        wanted = labels
    else:
        labels = rng.integers(0, num_classes, count)
        wanted = np.eye(num_classes)[labels]
    return np.round(2 * rng.normal(size=(count, num_classes)) + 2 * wanted), labels


def test_scores_of_hand_made_cases() -> None:
    """Six cases, three classes: A right twice of three, B right once of two, C always right, A called once for B."""
    predicted = np.array([0, 0, 1, 1, 0, 2])
    labels = np.array([0, 0, 0, 1, 1, 2])
    scores = ClassificationScores(np.eye(3)[predicted], labels)
    overall = {name: values[0] for name, values in scores.overall().items()}
    assert overall["accuracy"] == pytest.approx(4 / 6)
    assert overall["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    classes = scores.per_class()
    assert classes["sensitivity"][0] == pytest.approx([2 / 3, 1 / 2, 1])
    assert classes["specificity"][0] == pytest.approx([2 / 3, 3 / 4, 1])
    assert classes["precision"][0] == pytest.approx([2 / 3, 1 / 2, 1])
    assert classes["f1"][0] == pytest.approx([2 / 3, 1 / 2, 1])
    assert "top5_accuracy" not in overall  # of three classes it says nothing
    assert confusion_matrix(labels, predicted, 3).tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("multi_label", [False, True])
def test_agrees_with_monai(multi_label: bool) -> None:
    logits, labels = cases(multi_label=multi_label)
    probabilities = class_probabilities(logits, multi_label)
    scores = ClassificationScores(probabilities, labels, multi_label)
    found = {name: values[0] for name, values in scores.per_class().items()}
    y = torch.tensor(scores.positive.astype(np.float64))
    p = torch.tensor(probabilities)
    assert found["roc_auc"] == pytest.approx(compute_roc_auc(p, y, "none"))
    assert found["average_precision"] == pytest.approx(compute_average_precision(p, y, "none"))
    counts = get_confusion_matrix(torch.tensor(scores.predicted).double(), y).sum(0).numpy()  # tp, fp, tn, fn
    tp, fp, tn, fn = counts.T
    assert found["sensitivity"] == pytest.approx(tp / (tp + fn))
    assert found["specificity"] == pytest.approx(tn / (tn + fp))
    assert found["precision"] == pytest.approx(tp / (tp + fp))
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert label_counts(scores.positive, scores.predicted).tolist() == np.stack([tp, fn, fp, tn], 1).tolist()


def test_average_precision_counts_equal_scores_together() -> None:
    """Two of three cases share the top score, one of them with the class: precision 1/2 at the only threshold."""
    scores = ClassificationScores(np.array([[0.9], [0.9], [0.1]]), np.array([[1], [0], [0]]), multi_label=True)
    assert scores.per_class()["average_precision"][0, 0] == pytest.approx(0.5)
    assert scores.per_class()["roc_auc"][0, 0] == pytest.approx(0.75)  # a tie counts half


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=12, max_size=12), st.booleans())
def test_weight_is_repetition(times: list[int], multi_label: bool) -> None:
    logits, labels = cases(12, 6, multi_label)
    probabilities = class_probabilities(logits, multi_label)
    weighted = ClassificationScores(probabilities, labels, multi_label).all(np.array([times, [1] * 12]))
    repeated = ClassificationScores(probabilities.repeat(times, 0), labels.repeat(times, 0), multi_label).all()
    plain = ClassificationScores(probabilities, labels, multi_label).all()
    assert set(weighted) >= {"accuracy", "balanced_accuracy", "macro_roc_auc", *PER_CLASS}
    for name, values in weighted.items():
        np.testing.assert_allclose(values[0], repeated[name][0], rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(values[1], plain[name][0], rtol=1e-12, err_msg=name)


def test_top_five_follows_torch_and_breaks_ties_as_argmax() -> None:
    rng = np.random.default_rng(0)
    probabilities, labels = rng.random((100, 9)), rng.integers(0, 9, 100)
    scores = ClassificationScores(probabilities, labels)
    among = (torch.tensor(probabilities).topk(5).indices == torch.tensor(labels)[:, None]).any(1).double().mean()
    assert scores.overall()["top5_accuracy"][0] == pytest.approx(float(among))
    equal = ClassificationScores(np.full((7, 7), 1 / 7), np.arange(7))
    assert equal.ranks.tolist() == list(range(7))
    assert equal.overall()["accuracy"][0] == pytest.approx(1 / 7)
    assert equal.overall()["top5_accuracy"][0] == pytest.approx(5 / 7)


def test_what_is_undefined_is_not_a_number() -> None:
    """Class 1 has no cases and is never predicted, class 2 has none but is predicted."""
    scores = ClassificationScores(np.eye(3)[[0, 0, 2]], np.array([0, 0, 0]))
    found = {name: values[0] for name, values in scores.per_class().items()}
    assert np.isnan(found["sensitivity"]).tolist() == [False, True, True]
    assert np.isnan(found["specificity"]).tolist() == [True, False, False]
    assert np.isnan(found["precision"]).tolist() == [False, True, False]
    assert np.isnan(found["f1"]).tolist() == [False, True, False]
    assert np.isnan(found["roc_auc"]).all()
    assert np.isnan(found["average_precision"]).tolist() == [False, True, True]
    overall = scores.overall()
    assert overall["balanced_accuracy"][0] == pytest.approx(2 / 3)  # of the only class that has cases
    assert np.isnan(overall["macro_roc_auc"][0])
    empty = ClassificationScores(np.empty((0, 3)), np.empty(0, int)).overall()
    assert all(np.isnan(values[0]) for values in empty.values())


def test_multi_label_thresholds_per_class() -> None:
    probabilities = np.array([[0.4, 0.6], [0.2, 0.95]])
    labels = np.array([[1, 0], [0, 1]])
    half = {n: v[0] for n, v in ClassificationScores(probabilities, labels, True).overall().items()}
    fitted = {n: v[0] for n, v in ClassificationScores(probabilities, labels, True, [0.3, 0.9]).overall().items()}
    assert (half["accuracy"], half["decision_accuracy"]) == (0.5, 0.5)
    assert half["micro_f1"] == pytest.approx(0.5)
    assert all(fitted[name] == 1 for name in ("accuracy", "decision_accuracy", "micro_f1", "balanced_accuracy"))
    assert half["macro_roc_auc"] == fitted["macro_roc_auc"] == 1  # no threshold in it


def test_probabilities_are_those_of_torch() -> None:
    logits = np.array([[1.0, -2.0, 3.0], [1000.0, -1000.0, 0.0]])
    given_logits = torch.tensor(logits)
    np.testing.assert_allclose(class_probabilities(logits, False, 2.0), (given_logits / 2).softmax(1), atol=1e-12)
    np.testing.assert_allclose(class_probabilities(logits, True), given_logits.sigmoid(), atol=1e-12)
    each = class_probabilities(logits, False, np.array([1.0, 500.0]))
    np.testing.assert_allclose(each[1], (given_logits[1] / 500).softmax(0), atol=1e-12)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        class_probabilities(np.array([[np.nan, 1.0]]), False)
    with pytest.raises(ValueError, match="temperature"):
        class_probabilities(np.zeros((1, 2)), False, 0.0)
    with pytest.raises(ValueError, match=r"labels must be \(2,\)"):
        ClassificationScores(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="0 to 2, got 0 to 3"):
        ClassificationScores(np.zeros((2, 3)), np.array([0, 3]))
    with pytest.raises(ValueError, match="0 to 1"):
        ClassificationScores(np.zeros((1, 2)), np.array([[0, 2]]), multi_label=True)
