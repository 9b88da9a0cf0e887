"""Dice over validation volumes: every case counts once, absent classes by the stated rule."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from monai_ext.engines.case_share import CaseShare
from monai_ext.engines.fold_dice import FoldDice
from rank_processes import on_ranks


def volume(*values: int) -> torch.Tensor:
    return torch.tensor(values).reshape(1, 1, 1, 1, -1)


def run(metric: FoldDice, *pairs: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, SimpleNamespace]:
    for pair in pairs:
        metric.update(pair)
    engine = SimpleNamespace(state=SimpleNamespace(metrics={}))
    metric.completed(engine, "mean_dice")
    return engine.state.metrics["mean_dice"], engine.state


def test_known_values_per_class_and_case() -> None:
    metric = FoldDice({"a": 1, "b": 2})
    mean, state = run(
        metric,
        (volume(1, 1, 2, 0), volume(1, 0, 2, 2)),  # a: 2/3, b: 2/3
        (volume(1, 0, 0, 0), volume(1, 0, 0, 0)),  # a: 1, b: absent from both
    )
    assert state.class_scores == {"a": pytest.approx((2 / 3 + 1) / 2), "b": pytest.approx((2 / 3 + 1) / 2)}
    assert mean == pytest.approx(sum(state.class_scores.values()) / 2)
    assert len(state.dice_per_case) == 2


def test_absent_class_that_is_predicted_scores_zero() -> None:
    mean, _ = run(FoldDice({"a": 1}), (volume(1, 0), volume(0, 0)))
    assert mean == 0


def test_logits_and_lists_are_reduced_to_labels() -> None:
    labels = volume(1, 0, 2, 2)
    logits = torch.nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1).float()
    assert run(FoldDice({"a": 1, "b": 2}), (logits, labels))[0] == 1
    assert run(FoldDice({"a": 1, "b": 2}), ([logits, logits[..., ::2]], labels))[0] == 1


def test_ignored_voxels_do_not_count() -> None:
    metric = FoldDice({"a": 1}, ignore_label=9)
    assert run(metric, (volume(1, 1, 1), volume(1, 9, 9)))[0] == 1


def test_reset_forgets() -> None:
    metric = FoldDice({"a": 1})
    metric.update((volume(1), volume(0)))
    metric.reset()
    assert run(metric, (volume(1), volume(1)))[0] == 1


def test_mean_and_sum_over_classes_choose_alike() -> None:
    """Published early stopping watches the sum over foreground classes: the mean times their number, so the best
    epoch, every improvement and every stretch without one are the same."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 4, (1, 1, 4, 4, 4), generator=generator)
    means, sums = [], []
    for _ in range(12):
        noise = torch.rand(truth.shape, generator=generator) < torch.rand(1, generator=generator)
        prediction = torch.where(noise, torch.randint(0, 4, truth.shape, generator=generator), truth)
        mean, state = run(FoldDice({"a": 1, "b": 2, "c": 3}), (prediction, truth))
        means.append(mean)
        sums.append(sum(state.class_scores.values()))
    assert sums == pytest.approx([3 * mean for mean in means])
    assert len({round(m, 9) for m in means}) == 12
    assert sorted(range(12), key=means.__getitem__) == sorted(range(12), key=sums.__getitem__)


def _scores(pairs: list[tuple[torch.Tensor, torch.Tensor]], dealt: bool) -> tuple[float, Any, Any]:
    metric = FoldDice({"a": 1, "b": 2}, num_cases=len(pairs) if dealt else 0)
    mean, state = run(metric, *[pairs[case] for case in CaseShare(len(pairs))])
    return mean, state.class_scores, state.dice_per_case


@pytest.mark.parametrize("num_cases", [1, 3])
def test_cases_of_all_ranks_count_once_and_in_order(num_cases: int) -> None:
    generator = torch.Generator().manual_seed(0)
    volumes = [torch.randint(0, 3, (2, 1, 1, 2, 4, 4), generator=generator).unbind() for _ in range(num_cases)]
    alone = _scores(volumes, dealt=False)
    assert len(alone[2]) == num_cases
    assert on_ranks(_scores, 2, volumes, True) == [alone] * 2
