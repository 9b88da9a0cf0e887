"""A training stopped after any of its steps, or killed at any of its saves, goes on as if nothing had happened.

What is compared is everything that a training carries along: weights, moments of the optimiser, loss scale, weight
average, learning rate, counters of early stopping and of the plateau, position in the stream of samples, dropout.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer

from monai_ext.engines.interruption import Interruption
from monai_ext.engines.progress_log import ProgressLog
from monai_ext.engines.sample_stream import SampleStream
from monai_ext.engines.scheduled_validation import ScheduledValidation
from monai_ext.engines.schedules import ProgressSchedule
from monai_ext.engines.step_seed import StepSeed
from monai_ext.engines.training_budget import TrainingBudget
from monai_ext.engines.training_checkpoint import TrainingCheckpoint
from monai_ext.engines.training_report import TrainingReport
from monai_ext.engines.weight_average import WeightAverage
from monai_ext.planning.msd_plans import named_plan

EPOCHS, EPOCH_STEPS, CASES = 5, 3, 7
STEPS = EPOCHS * EPOCH_STEPS
pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals to itself")


class Killed(BaseException):
    """Ends a training without any of its goodbyes."""


class Loader:
    """Batches of two numbered samples, whose images are made from their numbers."""

    def __init__(self, stream: SampleStream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        samples = iter(self.stream)
        while True:
            chosen = [next(samples) for _ in range(self.stream.batch_size)]
            image = torch.tensor([[case, number % 5, 1.0] for number, case, _ in chosen])
            yield {"image": image, "label": image.sum(1, keepdim=True).sin()}


class Training:
    """All parts of a bundle's training around a network of a few weights, put together in the bundles' order."""

    def __init__(self, folder: Path, resume: bool = False, patience: int = 0, interval: int = 2) -> None:
        torch.manual_seed(0)
        self.network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.4), torch.nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.05)
        self.average = WeightAverage(self.network, 0.9)
        self.schedule = ProgressSchedule(self.optimizer, "plateau", patience=0)
        self.budget = TrainingBudget(self.schedule)
        self.interruption = Interruption()
        self.stream = SampleStream(CASES, 2, seed=3)
        self.validator = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=[{"image": torch.ones(1, 3) * n, "label": torch.zeros(1, 1)} for n in range(3)],
            network=self.average.module,
            decollate=False,
        )
        self.validator.add_event_handler(Events.EPOCH_COMPLETED, self._score)
        self.validation = ScheduledValidation(
            self.validator,
            interval,
            self.average.module,
            folder,
            self.schedule,
            patience=patience,
            interruption=self.interruption,
        )
        parts = {
            "network": self.network,
            "optimizer": self.optimizer,
            "average": self.average,
            "budget": self.budget,
            "validation": self.validation,
        }
        loss = torch.nn.MSELoss()
        self.checkpoint = TrainingCheckpoint(folder, named_plan("04"), parts, self.stream, resume)
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=EPOCHS,
            train_data_loader=Loader(self.stream),
            network=self.network,
            optimizer=self.optimizer,
            loss_function=loss,
            epoch_length=EPOCH_STEPS,
            decollate=False,
            amp=True,
            train_handlers=[
                StepSeed(5),
                CpuScaler(),
                self.average,
                self.interruption,
                self.budget,
                self.validation,
                ProgressLog(self.budget, loss, folder / "log.jsonl"),
                self.checkpoint,
            ],
        )
        picture: Any = SimpleNamespace(compose=lambda *_: None)
        tensorboard: Any = SimpleNamespace(picture=picture, folder=folder)
        plan: Any = SimpleNamespace(dataset="set", foreground_classes={"a": 1})
        self.report = TrainingReport(folder, plan, self.validation, self.budget, tensorboard, self.interruption)

    def _score(self, engine: Any) -> None:
        # falls from epoch to epoch, and tells one network from another
        size = float(sum(weight.abs().sum() for weight in self.average.module.parameters()))
        score = 1 / engine.state.epoch + 1e-3 / (1 + size)
        engine.state.metrics["score"] = score
        engine.state.key_metric_name = "score"
        engine.state.class_scores = {"a": score}

    def run(self) -> dict[str, Any]:
        """As `training` of the bundles; what is carried along, and what is in the folder."""
        done = self.budget.is_used_up(self.trainer) or self.validation.has_plateaued(self.trainer)
        if not done:
            self.trainer.run()
        try:
            self.report.finish(self.trainer)
        except KeyboardInterrupt:  # how a signal ends a training that is no command of a terminal
            return {}
        kept = torch.load(self.checkpoint.path, weights_only=True)
        del kept["budget"]["seconds"]
        files = {
            name: torch.load(self.checkpoint.path.parent / name, weights_only=True)
            for name in ("model.pt", "model_final.pt")
        }
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return {"last": kept, "files": files, "rates": rates}


class CpuScaler:
    """A loss scale that grows every seventh step; MONAI's own is for GPUs only."""

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(Events.STARTED, self._replace)

    def _replace(self, engine: Any) -> None:
        engine.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=7)


def assert_same(found: Any, expected: Any, place: str = "") -> None:
    """Bit by bit."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for key in expected:
            assert_same(found[key], expected[key], f"{place}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), place
        for number, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{place}/{number}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), place
    else:
        assert found == expected, place


@pytest.fixture(scope="module", params=[0, 2], ids=["to its end", "stopping early"])
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any]]:
    """Patience of a training, and how it ends."""
    return request.param, Training(tmp_path_factory.mktemp("whole"), patience=request.param).run()


def test_the_training_has_all_that_could_be_lost(undisturbed: tuple[int, dict[str, Any]]) -> None:
    patience, end = undisturbed
    last = end["last"]
    assert last["scaler"]["scale"] > 8  # has grown
    assert 0 < last["scaler"]["_growth_tracker"] < 7  # and is on its way again
    assert last["budget"]["schedule"]["reductions"] > 0
    assert last["optimizer"]["state"][0]["step"] == last["iteration"]
    assert (last["iteration"] < STEPS) is (patience > 0)


@pytest.mark.parametrize("step", range(1, STEPS))
def test_stopped_after_any_step(step: int, tmp_path: Path, undisturbed: tuple[int, dict[str, Any]]) -> None:
    patience, expected = undisturbed
    first = Training(tmp_path, patience=patience)
    first.trainer.add_event_handler(Events.ITERATION_STARTED(once=step), lambda _: os.kill(os.getpid(), signal.SIGTERM))
    if first.run():
        assert patience  # ended before that step
        return
    assert torch.load(tmp_path / "last.pt", weights_only=True)["iteration"] == step
    second = Training(tmp_path, resume=True, patience=patience)
    assert second.trainer.state.iteration == step
    assert_same(second.run(), expected)


@pytest.mark.parametrize("call", range(8))
def test_stopped_in_any_validation(call: int, tmp_path: Path, undisturbed: tuple[int, dict[str, Any]]) -> None:
    """The network is called three times in each of three validations."""
    patience, expected = undisturbed
    first = Training(tmp_path, patience=patience)
    calls = iter(range(100))

    def stop(*_: Any) -> None:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)

    first.average.module.register_forward_hook(stop)
    if first.run():
        assert patience
        return
    assert_same(Training(tmp_path, resume=True, patience=patience).run(), expected)


@pytest.mark.parametrize("save", range(7))
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_any_save(
    save: int, before: bool, tmp_path: Path, undisturbed: tuple[int, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right before or after `last.pt`, `model.pt` or `model_final.pt` takes its place."""
    from monai_ext.engines import scheduled_validation, training_checkpoint

    patience, expected = undisturbed
    saves = iter(range(100))
    real = training_checkpoint.save_tensors

    def killed(path: Path, content: Any, **options: Any) -> None:
        hit = next(saves) == save
        if hit and before:
            raise Killed
        real(path, content, **options)
        if hit:
            raise Killed

    with monkeypatch.context() as patch:
        for module in (training_checkpoint, scheduled_validation):
            patch.setattr(module, "save_tensors", killed)
        first = Training(tmp_path, patience=patience)
        try:
            first.run()
        except Killed:
            first.interruption.restore()
        else:
            assert patience
            return
    assert_same(Training(tmp_path, resume=True, patience=patience).run(), expected)


def test_log_of_a_stopped_training_has_every_validation(tmp_path: Path) -> None:
    """Epoch 2 ends with the signal: its line is there at once, its validation when the training goes on."""
    whole = Training(tmp_path / "whole")
    whole.run()
    first = Training(tmp_path / "cut")
    first.trainer.add_event_handler(Events.ITERATION_STARTED(once=6), lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert first.run() == {}
    rows = [json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert "score" not in rows[1]
    Training(tmp_path / "cut", resume=True).run()

    def lines(name: str) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        return [{k: v for k, v in row.items() if k not in ("minutes", "seconds_per_iteration")} for row in rows]

    assert lines("cut") == lines("whole")
