"""Budgets in steps and in minutes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from monai_ext.engines import training_budget
from monai_ext.engines.schedules import ProgressSchedule
from monai_ext.engines.training_budget import TrainingBudget


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    it = Clock()
    monkeypatch.setattr(training_budget, "time", it)
    return it


def engine(max_epochs: int = 10, epoch_length: int = 10) -> SimpleNamespace:
    state = SimpleNamespace(iteration=0, max_epochs=max_epochs, epoch_length=epoch_length)
    it = SimpleNamespace(state=state, stopped=False)
    it.terminate = lambda: setattr(it, "stopped", True)
    return it


def budget(max_minutes: float = 0) -> TrainingBudget:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    return TrainingBudget(ProgressSchedule(optimizer, "cosine"), max_minutes)


def test_minutes_end_training_with_the_rate_at_its_end(clock: Clock) -> None:
    it, trainer = budget(max_minutes=1), engine(max_epochs=10**6)
    it.start(trainer)
    for step in range(1, 61):
        clock.now += 1
        trainer.state.iteration = step
        it.advance(trainer)
        assert trainer.stopped == (step == 60)
    assert it.schedule.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_steps_alone_do_not_look_at_the_clock(clock: Clock) -> None:
    it, trainer = budget(), engine()
    it.start(trainer)
    clock.now += 10**6
    trainer.state.iteration = 50
    it.advance(trainer)
    assert it.progress == 0.5
    assert not trainer.stopped


def test_finished_training_has_nothing_left(clock: Clock) -> None:
    it, trainer = budget(), engine()
    assert not it.is_used_up(trainer)
    trainer.state.iteration = 100
    assert it.is_used_up(trainer)
    timed = budget(max_minutes=1)
    timed.load_state_dict({"seconds": 61.0, "schedule": it.schedule.state_dict()})
    assert timed.is_used_up(engine(max_epochs=10**6))


def test_clock_goes_on_after_a_resume(clock: Clock) -> None:
    it, trainer = budget(max_minutes=1), engine(max_epochs=10**6)
    it.start(trainer)
    clock.now += 45
    resumed = budget(max_minutes=1)
    resumed.load_state_dict(it.state_dict())
    clock.now += 1000  # time between the sessions does not count
    resumed.start(trainer)
    clock.now += 10
    resumed.advance(trainer)
    assert resumed.progress == pytest.approx(55 / 60)
    assert not trainer.stopped


def test_milestones_in_epochs_follow_the_epochs_done(clock: Clock) -> None:
    """Ten steps an epoch: the rate of step 31, the first of the fourth epoch, is the reduced one."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    it, trainer = TrainingBudget(ProgressSchedule(optimizer, "multistep", milestones=(3,))), engine(max_epochs=1000)
    it.start(trainer)
    rates = []
    for step in range(1, 32):
        trainer.state.iteration = step
        it.advance(trainer)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[28:] == pytest.approx([0.1, 0.03, 0.03])
    resumed = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    TrainingBudget(ProgressSchedule(resumed, "multistep", milestones=(3,))).start(trainer)
    assert resumed.param_groups[0]["lr"] == pytest.approx(0.03)


def test_steps_of_their_own_end_training_whatever_the_epochs(clock: Clock) -> None:
    it, trainer = budget(), engine(max_epochs=10**6)
    it.max_steps = 25
    it.start(trainer)
    for step in range(1, 26):
        trainer.state.iteration = step
        it.advance(trainer)
        assert it.progress == pytest.approx(step / 25)
        assert trainer.stopped == (step == 25)
