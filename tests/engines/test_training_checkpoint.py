"""Resuming: everything comes back, and what does not fit is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine as IgniteEngine
from ignite.engine import Events

from forked_child import KILLED, die_before, in_child, mount_small_disk
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


EPOCH_STEPS, STEPS = 3, 15


class Training:
    """A network of two weights with momentum, whose every step depends on all steps before and on its sample."""

    def __init__(self, folder: Path, resume: bool) -> None:
        torch.manual_seed(0)
        self.network = torch.nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9)
        self.stream = SampleStream(5, 2, seed=1)
        parts = {"network": self.network, "optimizer": self.optimizer}
        self.checkpoint = TrainingCheckpoint(folder, named_plan("04"), parts, self.stream, resume)
        self.engine = IgniteEngine(self.step)
        self.engine.scaler = None  # type: ignore[attr-defined]
        # as MONAI's engines set it; without it Ignite takes every run for the first
        self.engine.state.epoch_length, self.engine.state.max_epochs = EPOCH_STEPS, STEPS // EPOCH_STEPS
        self.checkpoint.attach(self.engine)

    def step(self, _: IgniteEngine, samples: list[tuple[int, int, int]]) -> None:
        images = torch.tensor([[number % 7, case] for number, case, _ in samples], dtype=torch.float32)
        self.optimizer.zero_grad()
        (self.network(images) - images.prod(1, keepdim=True)).square().mean().mul(0.01).backward()
        self.optimizer.step()

    def batches(self) -> Iterator[list[tuple[int, int, int]]]:
        samples = iter(self.stream)
        while batch := list(islice(samples, self.stream.batch_size)):
            yield batch

    def run(self, until: int = STEPS) -> list[torch.Tensor]:
        """Train up to a step; the weights afterwards."""

        def stop(engine: IgniteEngine) -> None:
            if engine.state.iteration == until:
                engine.terminate()

        self.engine.add_event_handler(Events.ITERATION_COMPLETED, stop)
        if self.engine.state.iteration < STEPS:
            self.engine.run(self.batches())
        return [weight.detach().clone() for weight in self.network.parameters()]


def first_run(folder: Path) -> None:
    """Leaves checkpoints of steps 7 and 6."""
    Training(folder, resume=False).run(until=7)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[torch.Tensor]:
    return Training(tmp_path_factory.mktemp("whole"), resume=False).run()


def steps(folder: Path) -> dict[str, int]:
    return {path.name: load_tensors(path, "")["iteration"] for path in sorted(folder.glob("last*.pt"))}


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    first_run(tmp_path)
    assert steps(tmp_path) == {"last.pt": 7, "last_previous.pt": 6}
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "last_previous.pt"}


@pytest.mark.parametrize("damage", ["none", "cut", "flipped", "removed"])
def test_resumed_training_ends_as_an_undisturbed_one_whatever_happened_to_the_last_file(
    tmp_path: Path, undisturbed: list[torch.Tensor], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    first_run(tmp_path)
    last = tmp_path / "last.pt"
    content = bytearray(last.read_bytes())
    if damage == "cut":
        last.write_bytes(content[:-1000])
    elif damage == "flipped":
        content[len(content) // 3] ^= 16
        last.write_bytes(content)
    elif damage == "removed":
        last.unlink()
    training = Training(tmp_path, resume=True)
    assert training.engine.state.iteration == (7 if damage == "none" else 6)
    assert ("last_previous.pt is used" in caplog.text) is (damage != "none")
    for found, expected in zip(training.run(), undisturbed, strict=True):
        assert torch.equal(found, expected)


def test_damaged_file_never_takes_the_place_of_the_whole_one(tmp_path: Path) -> None:
    first_run(tmp_path)
    (tmp_path / "last.pt").write_bytes(b"damaged")
    training = Training(tmp_path, resume=True)
    training.checkpoint.save(training.engine)
    assert steps(tmp_path) == {"last.pt": 6, "last_previous.pt": 6}
    training.engine.state.iteration = 8
    training.checkpoint.save(training.engine)
    assert steps(tmp_path) == {"last.pt": 8, "last_previous.pt": 6}


def test_both_damaged_are_one_error(tmp_path: Path) -> None:
    first_run(tmp_path)
    for name in ("last.pt", "last_previous.pt"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
    with pytest.raises(
        InputError, match=r"no checkpoint can be read:\n.*last.pt: not.*\n.*_previous.pt: not.*\nCure: rest"
    ):
        Training(tmp_path, resume=True)


def test_previous_file_alone_is_a_training_too(tmp_path: Path) -> None:
    first_run(tmp_path)
    (tmp_path / "last.pt").unlink()
    with pytest.raises(InputError, match=r"last_previous.pt: this folder already holds a training"):
        Training(tmp_path, resume=False)


def test_kill_at_any_step_of_any_save_costs_no_training(tmp_path: Path, undisturbed: list[torch.Tensor]) -> None:
    """Each save syncs, links, renames twice and syncs the folder: five calls, the third of which makes it count.

    The first has no file to link and a folder to make: four calls, again the third counts. There are five saves.
    """
    for call in (*range(9), 12, 15, 17, 18, 21, 23):
        folder = tmp_path / str(call)

        def body(folder: Path = folder, call: int = call) -> None:
            die_before(call)
            Training(folder, resume=False).run()

        assert in_child(body, tmp_path / "report") == KILLED
        training = Training(folder, resume=True)
        saves = 0 if call < 3 else 1 + (call - 2) // 5
        assert training.engine.state.iteration == EPOCH_STEPS * saves
        for found, expected in zip(training.run(), undisturbed, strict=True):
            assert torch.equal(found, expected)
        assert {path.name for path in folder.iterdir()} == {"last.pt", "last_previous.pt"}


def test_full_disk_costs_no_training(tmp_path: Path, undisturbed: list[torch.Tensor]) -> None:
    def body() -> None:
        mount_small_disk(tmp_path, "64k")
        first_run(tmp_path)
        ballast = tmp_path / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(tmp_path).free))
        training = Training(tmp_path, resume=True)
        with pytest.raises(
            InputError, match=r"last.pt: cannot be written \(No space left.*Cure: free space.*--resume True"
        ):
            training.run()
        assert steps(tmp_path) == {"last.pt": 7, "last_previous.pt": 6}
        ballast.unlink()
        for found, expected in zip(Training(tmp_path, resume=True).run(), undisturbed, strict=True):
            assert torch.equal(found, expected)

    assert in_child(body, tmp_path.with_suffix(".report")) == 0


def test_checkpoint_of_an_earlier_version_goes_on(
    tmp_path: Path, undisturbed: list[torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    first_run(tmp_path)
    torch.save(load_tensors(tmp_path / "last.pt", ""), tmp_path / "last.pt")
    (tmp_path / "last_previous.pt").unlink()
    training = Training(tmp_path, resume=True)
    assert training.engine.state.iteration == 7
    assert "last.pt has no checksum" in caplog.text
    for found, expected in zip(training.run(), undisturbed, strict=True):
        assert torch.equal(found, expected)


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
