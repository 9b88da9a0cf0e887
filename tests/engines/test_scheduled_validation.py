"""When validation happens, which model is kept, and when a plateau ends training."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.engines import Evaluator

from monai_ext.engines.scheduled_validation import ScheduledValidation
from monai_ext.engines.schedules import ProgressSchedule


class Validator(Evaluator):
    """Answers with given metrics and notes the epochs it was asked for."""

    def __init__(self, *metrics: float) -> None:
        self.metrics = list(metrics)
        self.epochs: list[int] = []
        self.state = SimpleNamespace(key_metric_name="mean_dice", metrics={}, class_scores={})

    def run(self, global_epoch: int = 1) -> None:
        value = self.metrics[len(self.epochs)]
        self.epochs.append(global_epoch)
        self.state.metrics, self.state.class_scores = {"mean_dice": value}, {"a": value}


def train(folder: Path, validator: Validator, epochs: int = 6, stop_at: int = 0, **options: Any) -> ScheduledValidation:
    """Run an engine whose network counts its steps, two steps an epoch."""
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    schedule = ProgressSchedule(torch.optim.SGD(network.parameters(), lr=0.1), "plateau", patience=0)

    def step(engine: Engine, _: Any) -> None:
        network.weight.data += 1
        if engine.state.iteration == stop_at:
            engine.terminate()

    it = ScheduledValidation(validator, options.pop("interval", 1), network, folder, schedule, **options)  # type: ignore[arg-type]
    engine = Engine(step)
    it.attach(engine)
    engine.run([0, 1], max_epochs=epochs)
    return it


def weight(path: Path) -> float:
    return float(torch.load(path, weights_only=True)["weight"])


def test_best_and_last_model_are_kept(tmp_path: Path) -> None:
    it = train(tmp_path, Validator(0.1, 0.5, 0.4), epochs=3)
    assert (it.best, it.best_epoch, it.last_class_scores) == (0.5, 2, {"a": 0.4})
    assert weight(tmp_path / "model.pt") == 4
    assert weight(tmp_path / "model_final.pt") == 6
    assert it.schedule.reductions == 1  # plateau was told


def test_interval_and_first_epoch(tmp_path: Path) -> None:
    validator = Validator(*[0.5] * 9)
    train(tmp_path, validator, epochs=6, interval=2, start_epoch=3)
    assert validator.epochs == [4, 6]


def test_last_step_is_validated_even_within_an_epoch(tmp_path: Path) -> None:
    validator = Validator(0.1, 0.2)
    it = train(tmp_path, validator, epochs=6, interval=2, stop_at=5)
    assert validator.epochs == [2, 3]
    assert it.last_iteration == 5
    assert weight(tmp_path / "model_final.pt") == 5


@pytest.mark.parametrize(("min_epochs", "last"), [(0, 4), (5, 5)])
def test_plateau_ends_training_after_patience(tmp_path: Path, min_epochs: int, last: int) -> None:
    validator = Validator(0.1, 0.5, *[0.4] * 7)
    train(tmp_path, validator, epochs=9, patience=2, min_epochs=min_epochs)
    assert validator.epochs[-1] == last


def test_patience_counts_epochs_not_validations(tmp_path: Path) -> None:
    """Every third epoch is validated, epoch 3 is best: training ends four epochs later and is validated there."""
    validator = Validator(0.5, *[0.4] * 7)
    it = train(tmp_path, validator, epochs=20, interval=3, patience=4)
    assert validator.epochs == [3, 6, 7]
    assert it.best_epoch == 3


def test_improvement_starts_the_count_anew(tmp_path: Path) -> None:
    validator = Validator(0.1, 0.1, 0.2, 0.2, 0.3, *[0.3] * 9)
    train(tmp_path, validator, epochs=20, patience=2)
    assert validator.epochs[-1] == 7  # 1, 3 and 5 were better; equal is no improvement


@pytest.mark.parametrize(("patience", "last"), [(0, 12), (2, 8)])
def test_epochs_before_the_first_validation_do_not_count(tmp_path: Path, patience: int, last: int) -> None:
    """The first n evaluations are skipped by `start_epoch` n + 1; what is not validated is not stale."""
    validator = Validator(*[0.5] * 12)
    it = train(tmp_path, validator, epochs=12, start_epoch=6, patience=patience)
    assert validator.epochs == list(range(6, last + 1))
    assert it.best_epoch == 6


def test_patience_that_ran_out_before_min_epochs_ends_training_there(tmp_path: Path) -> None:
    """At the end of that epoch, unless a validation in between was better."""
    stale, better = Validator(0.5, *[0.4] * 12), Validator(0.5, 0.4, 0.4, 0.4, 0.6, *[0.4] * 12)
    train(tmp_path / "stale", stale, epochs=12, patience=2, min_epochs=6)
    train(tmp_path / "better", better, epochs=12, patience=2, min_epochs=6)
    assert (stale.epochs[-1], better.epochs[-1]) == (6, 7)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_score_that_is_not_finite_is_never_the_best(
    tmp_path: Path, bad: float, caplog: pytest.LogCaptureFixture
) -> None:
    it = train(tmp_path, Validator(bad, 0.3, bad), epochs=3)
    assert (it.best, it.best_epoch, it.best_class_scores) == (0.3, 2, {"a": 0.3})
    assert weight(tmp_path / "model.pt") == 4
    assert weight(tmp_path / "model_final.pt") == 6
    assert it.schedule.best == 0.3  # infinity would have ended all improvement
    assert [r.getMessage() for r in caplog.records] == [
        f"epoch {epoch} is not saved as the best model: its mean_dice is {bad}" for epoch in (1, 3)
    ]


def test_without_a_finite_score_there_is_no_best_model(tmp_path: Path) -> None:
    it = train(tmp_path, Validator(math.nan, math.nan), epochs=2)
    assert it.best == -math.inf
    assert [path.name for path in tmp_path.iterdir()] == ["model_final.pt"]


def test_weights_that_are_not_finite_are_never_the_best(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where all answers are NaN the first class is taken, which scores well where there is nothing else."""

    class Diverging(Validator):
        def run(self, global_epoch: int = 1) -> None:
            super().run(global_epoch)
            if global_epoch == 2:
                it.network.get_parameter("weight").data.fill_(math.nan)

    network = torch.nn.Linear(1, 1, bias=False)
    network.register_buffer("ranges", torch.tensor([-math.inf, math.inf]))  # as quantisation has them at first
    schedule = ProgressSchedule(torch.optim.SGD(network.parameters(), lr=0.1), "plateau", patience=0)
    validator = Diverging(0.2, 0.9)
    it = ScheduledValidation(validator, 1, network, tmp_path, schedule)  # type: ignore[arg-type]
    engine = Engine(lambda *_: None)
    it.attach(engine)
    engine.run([0], max_epochs=2)
    assert (it.best, it.best_epoch) == (0.2, 1)
    assert torch.isfinite(torch.load(tmp_path / "model.pt", weights_only=True)["weight"]).all()
    assert "epoch 2 is not saved as the best model: it holds weights that are not finite" in caplog.text


def test_interrupted_training_is_not_validated(tmp_path: Path) -> None:
    validator = Validator()
    train(tmp_path, validator, epochs=2, interruption=SimpleNamespace(received=15, unfinished=True))
    assert validator.epochs == []
    assert list(tmp_path.iterdir()) == []


def test_state_survives_a_restart(tmp_path: Path) -> None:
    first = train(tmp_path, Validator(0.3, 0.2), epochs=2)
    second = train(tmp_path / "other", Validator(0.1), epochs=1)
    second.load_state_dict(first.state_dict())
    assert (second.best, second.best_epoch, second.last_iteration) == (0.3, 1, 4)


@pytest.mark.parametrize("damage", ["none", "cut", "removed"])
def test_lost_best_model_is_written_anew(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """After a resume a training must not end with a best epoch and without its weights."""
    before = train(tmp_path, Validator(0.5, 0.1), epochs=2)
    path = tmp_path / "model.pt"
    assert (before.best_epoch, weight(path)) == (1, 2)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "removed":
        path.unlink()
    it = train(tmp_path / "fresh", Validator(0.2), epochs=1)
    it.folder = tmp_path
    it.load_state_dict(before.state_dict())
    assert (it.best, it.best_epoch) == ((0.5, 1) if damage == "none" else (-math.inf, 0))
    assert ("model.pt of epoch 1 is lost" in caplog.text) is (damage != "none")
