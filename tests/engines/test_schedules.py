"""Learning rates as functions of progress."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from monai_ext.engines.schedules import SCHEDULES, ProgressSchedule
from monai_ext.errors import InputError


def schedule(kind: str, **options: Any) -> ProgressSchedule:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    return ProgressSchedule(optimizer, kind, **options)


@pytest.mark.parametrize(
    ("kind", "progress", "expected"),
    [
        ("poly", 0.0, 1.0),
        ("poly", 0.5, 0.5**0.9),
        ("cosine", 0.5, 0.5),
        ("multistep", 0.49, 1.0),
        ("multistep", 0.6, 0.3),
        ("multistep", 0.9, 0.09),
        ("none", 0.7, 1.0),
    ],
)
def test_values(kind: str, progress: float, expected: float) -> None:
    assert schedule(kind).scale(progress) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["poly", "cosine"])
def test_rate_reaches_zero_at_the_end(kind: str) -> None:
    it = schedule(kind, warmup=0.1)
    it.set_progress(1.0)
    assert it.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    assert it.scale(0.0) == 0.0
    assert it.scale(0.1) == pytest.approx(1.0)
    assert all(it.scale(p / 100) >= it.scale((p + 1) / 100) for p in range(10, 100))


def test_warmup_may_start_above_zero() -> None:
    it = schedule("none", warmup=0.2, warmup_start=0.25)
    assert [it.scale(p) for p in (0.0, 0.1, 0.2, 0.9)] == pytest.approx([0.25, 0.625, 1.0, 1.0])
    with pytest.raises(InputError, match="start of the warm-up"):
        schedule("none", warmup_start=2.0)


def test_plateau_reduces_after_patience_and_survives_a_restart() -> None:
    it = schedule("plateau", patience=1, factor=0.5)
    for metric in (0.5, 0.4, 0.4, 0.6, 0.5, 0.5):
        it.report_metric(metric)
    assert it.scale(0.9) == 0.25
    other = schedule("plateau", patience=1, factor=0.5)
    other.load_state_dict(it.state_dict())
    assert other.scale(0.1) == 0.25
    assert not math.isinf(other.best)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_all_kinds_stay_between_zero_and_peak(kind: str) -> None:
    assert all(0 <= schedule(kind, warmup=0.05).scale(p / 50) <= 1 for p in range(51))


def test_milestones_above_one_are_epochs() -> None:
    """As `--steps 3 5` of the published recipe: from the end of that epoch on, whatever the share of training done."""
    it = schedule("multistep", milestones=(3, 5), factor=0.3)
    rates = [it.scale(epochs / 1000, epochs) for epochs in (0, 2, 2.99, 3, 4.99, 5, 900)]
    assert rates == pytest.approx([1, 1, 1, 0.3, 0.3, 0.09, 0.09])
    mixed = schedule("multistep", milestones=(0.5, 3), factor=0.1)
    rates = [mixed.scale(p, e) for p, e in ((0.4, 2), (0.5, 2), (0.5, 3), (0.4, 3))]
    assert rates == pytest.approx([1, 0.1, 0.01, 0.1])
    it.set_progress(0.1, 4)
    assert it.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.3)


def test_epochs_matter_to_milestones_only() -> None:
    for kind in ("poly", "cosine", "plateau", "none"):
        assert schedule(kind).scale(0.3, 7.0) == schedule(kind).scale(0.3)


def test_multistep_equals_that_of_torch() -> None:
    it = schedule("multistep", milestones=(2, 3), factor=0.3)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3], gamma=0.3)
    for epoch in range(6):
        it.set_progress(epoch / 6, epoch)
        assert it.optimizer.param_groups[0]["lr"] == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("kind", ["poly", "cosine"])
def test_rate_of_an_epochs_first_step_is_the_published_rate_per_epoch(kind: str) -> None:
    """Published recipes set the rate once an epoch; within it the rate here falls by one epoch's share."""
    epochs = 1000
    for epoch in (0, 1, 500, 998):
        share = epoch / epochs
        published = (1 - share) ** 0.9 if kind == "poly" else (1 + math.cos(math.pi * share)) / 2
        first, last = schedule(kind).scale(share), schedule(kind).scale((epoch + 1) / epochs)
        assert first == pytest.approx(published)
        assert 0 <= first - last < 2 / epochs


@pytest.mark.parametrize("milestones", [(-0.1, 0.5), (1.5,), (0.5, 30.5)])
def test_impossible_milestones_are_refused(milestones: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match=r"--lr_steps .*neither a share .* nor a whole number of epochs.*Cure"):
        schedule("multistep", milestones=milestones)


def test_unknown_schedule_is_refused() -> None:
    with pytest.raises(InputError, match=r"--scheduler 'linear'.*Cure: one of poly, cosine"):
        schedule("linear")
