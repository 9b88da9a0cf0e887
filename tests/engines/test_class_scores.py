"""Scores of a classifier's validation."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine

from monai_ext.engines.case_share import CaseShare
from monai_ext.engines.class_scores import ClassScores
from monai_ext.errors import InputError
from rank_processes import on_ranks

CLASSES = ("a", "b", "c")


def run(metric: ClassScores, logits: torch.Tensor, labels: torch.Tensor, parts: list[int]) -> Any:
    """State of an evaluator that went over these cases in batches."""
    batches = list(zip(logits.split(parts), labels.split(parts), strict=True))
    engine = Engine(lambda _, batch: {"pred": batch[0], "label": batch[1]})
    metric.attach(engine, "key")
    return engine.run(batches)


def cases(multi_label: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (20, 3), generator=generator) if multi_label else torch.arange(20) % 3
    flags = labels if multi_label else torch.nn.functional.one_hot(labels, 3)
    return torch.randn(20, 3, generator=generator) + 2 * flags - 1, labels


@pytest.mark.parametrize("multi_label", [False, True])
def test_every_case_counts_once_whatever_the_batches(multi_label: bool) -> None:
    logits, labels = cases(multi_label)
    states = [run(ClassScores(CLASSES, multi_label), logits, labels, parts) for parts in ([20], [7, 7, 6], [1] * 20)]
    for state in states[1:]:
        assert state.metrics == states[0].metrics
        assert state.class_scores == states[0].class_scores
        assert state.scores == states[0].scores
    recall = states[0].class_scores
    assert list(recall) == list(CLASSES)
    hits = (logits > 0) & (labels > 0) if multi_label else (logits.argmax(1) == labels)[:, None] & logits.ne(1e9)
    for k, name in enumerate(CLASSES):
        own = labels[:, k] > 0 if multi_label else labels == k
        assert recall[name] == pytest.approx(float(hits[own, k].double().mean()))
    key = "macro_average_precision" if multi_label else "accuracy"
    assert states[0].metrics["key"] == pytest.approx(states[0].scores[key])


def test_validations_do_not_add_up() -> None:
    logits, labels = cases()
    metric = ClassScores(CLASSES)
    engine = Engine(lambda _, batch: {"pred": batch[0], "label": batch[1]})
    metric.attach(engine, "accuracy")
    engine.run([(10.0 * torch.eye(3)[labels], labels)])
    assert engine.state.metrics["accuracy"] == 1
    engine.run([(logits, labels)])
    assert engine.state.metrics["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))


def test_balanced_accuracy_weighs_classes_not_cases() -> None:
    """Nine of a right, one of b wrong; c has no cases and takes no part."""
    labels = torch.tensor([0] * 9 + [1])
    logits = torch.eye(3)[[0] * 10]
    state = run(ClassScores(CLASSES, key_score="balanced_accuracy"), logits, labels, [10])
    assert state.metrics["key"] == pytest.approx(0.5)
    assert state.scores["accuracy"] == pytest.approx(0.9)
    assert state.class_scores == {"a": 1, "b": 0}


def test_buffers_may_be_written_over() -> None:
    """A captured graph gives every batch in the same memory."""
    logits, labels = cases()
    metric, memory, places = ClassScores(CLASSES), torch.empty(10, 3), torch.empty(10, dtype=torch.long)
    metric.reset()
    for a, b in zip(logits.split(10), labels.split(10), strict=True):
        metric.update((memory.copy_(a), places.copy_(b)))
    assert metric.compute() == pytest.approx(float((logits.argmax(1) == labels).double().mean()))


def test_half_precision_and_column_of_labels() -> None:
    logits, labels = cases()
    state = run(ClassScores(CLASSES), (10 * logits.round()).bfloat16(), labels[:, None], [20])
    assert state.metrics["key"] == pytest.approx(float((logits.round().argmax(1) == labels).double().mean()))


def test_diverged_network_is_named(caplog: pytest.LogCaptureFixture) -> None:
    logits, labels = cases()
    logits[3] = float("nan")
    with caplog.at_level(logging.WARNING):
        state = run(ClassScores(CLASSES), logits, labels, [20])
    assert "not finite for 1 of 20 cases" in caplog.text
    assert 0 < state.metrics["key"] < 1


def test_unusable_keys_are_refused() -> None:
    for key, multi_label in (("kappa", False), ("micro_f1", False), ("top5_accuracy", True), ("top5_accuracy", False)):
        with pytest.raises(InputError, match=f"--key_score '{key}'.*Cure: one of"):
            ClassScores(CLASSES, multi_label, key)
    assert ClassScores([str(i) for i in range(6)], key_score="top5_accuracy").key_score == "top5_accuracy"
    metric = ClassScores(CLASSES, True)
    metric.reset()
    with pytest.raises(InputError, match=r"no cases.*Cure"):
        metric.compute()
    metric.update((torch.randn(4, 3), torch.zeros(4, 3)))
    with pytest.raises(InputError, match=r"macro_average_precision: is undefined.*Cure"):
        metric.completed(SimpleNamespace(state=SimpleNamespace(metrics={})), "key")  # type: ignore[arg-type]


def _on_a_rank(multi_label: bool) -> tuple[Any, Any, Any]:
    logits, labels = cases(multi_label)
    own = list(CaseShare(len(labels)))
    metric = ClassScores(CLASSES, multi_label, num_cases=len(labels))
    state = run(metric, logits[own], labels[own], [4] * (len(own) // 4) + [len(own) % 4])
    assert metric.of_all is not None
    return state.metrics, state.class_scores, metric.of_all[0].tolist()


@pytest.mark.parametrize("multi_label", [False, True])
def test_every_rank_has_the_scores_of_all_cases(multi_label: bool) -> None:
    """Twenty cases on three ranks."""
    logits, labels = cases(multi_label)
    alone = run(ClassScores(CLASSES, multi_label), logits, labels, [20])
    for metrics, class_scores, of_all in on_ranks(_on_a_rank, 3, multi_label):
        assert metrics == alone.metrics
        assert class_scores == alone.class_scores
        assert of_all == logits.tolist()
