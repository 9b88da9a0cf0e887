"""Resuming: everything comes back, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine as IgniteEngine

from monai_ext.engines.sample_stream import SampleStream
from monai_ext.engines.training_checkpoint import TrainingCheckpoint, load_tensors, load_weights
from monai_ext.errors import InputError
from monai_ext.planning.msd_plans import named_plan


class Engine(SimpleNamespace):
    def add_event_handler(self, *_: Any) -> None:
        """The tests call the handlers themselves."""


def engine(iteration: int = 0) -> Engine:
    return Engine(state=SimpleNamespace(iteration=iteration, epoch=0, epoch_length=10), scaler=None)


def handler(folder: Path, network: torch.nn.Module, **options: Any) -> TrainingCheckpoint:
    plan = options.pop("plan", named_plan("04"))
    return TrainingCheckpoint(folder, plan, {"network": network}, SampleStream(5, 2), **options)


def test_network_and_position_come_back(tmp_path: Path) -> None:
    trained = torch.nn.Linear(2, 2)
    handler(tmp_path, trained).save(engine(iteration=24))
    fresh = torch.nn.Linear(2, 2)
    it, trainer = handler(tmp_path, fresh, resume=True), engine()
    it.attach(trainer)
    torch.testing.assert_close(fresh.weight, trained.weight)
    assert (trainer.state.iteration, trainer.state.epoch, it.stream.first_step) == (24, 2, 24)


def test_saves_within_an_epoch_on_request(tmp_path: Path) -> None:
    saved: list[int] = []
    trainer = IgniteEngine(lambda *_: None)
    trainer.scaler = None  # type: ignore[attr-defined]
    it = handler(tmp_path, torch.nn.Linear(2, 2), save_interval=3)
    it.save = lambda e: saved.append(e.state.iteration)  # type: ignore[method-assign]
    it.attach(trainer)
    trainer.run(range(7), max_epochs=1)
    assert sorted(set(saved)) == [3, 6, 7]


def test_existing_training_is_not_overwritten_unasked(tmp_path: Path) -> None:
    handler(tmp_path, torch.nn.Linear(2, 2)).save(engine())
    with pytest.raises(InputError, match=r"--resume True.*--overwrite True"):
        handler(tmp_path, torch.nn.Linear(2, 2))


def test_other_options_are_refused_on_resume(tmp_path: Path) -> None:
    handler(tmp_path, torch.nn.Linear(2, 2), options={"learning_rate": 0.1, "seed": 1}).save(engine())
    handler(tmp_path, torch.nn.Linear(2, 2), resume=True, options={"learning_rate": 0.1, "seed": 1}).attach(engine())
    with pytest.raises(InputError, match=r"--learning_rate 0.1 -> 0.5"):
        handler(tmp_path, torch.nn.Linear(2, 2), resume=True, options={"learning_rate": 0.5, "seed": 1}).attach(
            engine()
        )


def test_checkpoint_of_another_plan_is_refused(tmp_path: Path) -> None:
    handler(tmp_path, torch.nn.Linear(2, 2)).save(engine())
    other = handler(tmp_path, torch.nn.Linear(2, 2), resume=True, plan=named_plan("02"))
    with pytest.raises(InputError, match=r"another plan.*Cure"):
        other.attach(engine())


def test_half_written_file_is_named(tmp_path: Path) -> None:
    handler(tmp_path, torch.nn.Linear(200, 200)).save(engine())
    content = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"last.pt: not a readable checkpoint"):
        handler(tmp_path, torch.nn.Linear(200, 200), resume=True).attach(engine())


def test_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(1)}, tmp_path / "last.pt")
    with pytest.raises(InputError, match=r"lacks \['format', 'iteration', 'network', 'options', 'plan'\]"):
        handler(tmp_path, torch.nn.Linear(2, 2), resume=True).attach(engine())


def test_resume_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    trainer = engine()
    handler(tmp_path, torch.nn.Linear(2, 2), resume=True).attach(trainer)
    assert trainer.state.iteration == 0


def test_pickled_objects_are_not_executed(tmp_path: Path) -> None:
    torch.save({"x": Path("surprise")}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_tensors(tmp_path / "model.pt", "train again")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 3).state_dict(), tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"do not fit.*size mismatch"):
        load_weights(torch.nn.Linear(2, 2), tmp_path / "model.pt", "")
    with pytest.raises(InputError, match="not found"):
        load_weights(torch.nn.Linear(2, 2), tmp_path / "absent.pt", "")
