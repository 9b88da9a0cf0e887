"""What processes agree on, with real processes; and that a process alone needs none of it."""

from __future__ import annotations

import gc
import logging
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from monai_ext.engines import process_group
from monai_ext.engines.data_parallel import data_parallel
from monai_ext.engines.interruption import Interruption
from monai_ext.engines.step_seed import StepSeed
from monai_ext.engines.training_budget import TrainingBudget
from monai_ext.errors import InputError
from rank_processes import on_ranks


def test_alone_nothing_is_asked_of_anyone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    process_group.start()
    assert not process_group.running()
    assert (process_group.rank(), process_group.world_size(), process_group.is_first()) == (0, 1, True)
    assert process_group.gather({"a": 1}) == [{"a": 1}]
    assert process_group.largest(0.1) == process_group.of_first(0.1) == 0.1
    assert process_group.together(lambda: 5) == 5
    done: list[int] = []
    process_group.first_alone(lambda: done.append(1))
    assert done == [1]
    network = torch.nn.Linear(2, 1)
    assert data_parallel(network, "cpu") is network
    process_group.barrier()
    process_group.finish()


def test_half_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT are not"):
        process_group.start()
    with pytest.raises(InputError, match=r"multi_gpu_train\.json"):
        data_parallel(torch.nn.Linear(2, 1), "cpu")


def _agree() -> tuple[Any, ...]:
    rank = process_group.rank()
    return (
        rank,
        process_group.is_first(),
        process_group.gather("abc"[rank] * rank),  # of different lengths
        process_group.largest([1.0, 0.1, 0.3][rank]),
        process_group.of_first([1 / 3, 7, 8][rank]),
        logging.getLogger("any").isEnabledFor(logging.WARNING),
        StepSeed(1).rank,
    )


def test_every_rank_hears_the_same() -> None:
    for rank, heard in enumerate(on_ranks(_agree, 3)):
        assert heard == (rank, rank == 0, ["", "b", "cc"], 1.0, 1 / 3, rank == 0, rank)


def _fail(how: str, culprits: tuple[int, ...], log: Path) -> Any:
    def function() -> int:
        with open(log, "a") as file:
            file.write(str(process_group.rank()))
        if process_group.rank() in culprits:
            raise InputError(f"broken on {process_group.rank()}")
        return 7

    process_group.LAST_WORDS = 0.0
    if how == "nested":
        return process_group.together(lambda: process_group.together(function))
    return getattr(process_group, how)(function)


@pytest.mark.parametrize(
    ("how", "culprits", "expected", "called"),
    [
        ("together", (), [7, 7], "01"),
        ("together", (0, 1), ["InputError('broken on 0')", "SystemExit(1)"], "01"),
        ("together", (1,), ["SystemExit(1)", "InputError('broken on 1')"], "01"),
        ("nested", (1,), ["SystemExit(1)", "InputError('broken on 1')"], "01"),
        ("first_alone", (), [None, None], "0"),
        ("first_alone", (0,), ["InputError('broken on 0')", "SystemExit(1)"], "0"),
    ],
)
def test_one_mistake_is_said_once(how: str, culprits: tuple[int, ...], expected: Any, called: str, tmp_path: Path):
    assert on_ranks(_fail, 2, how, culprits, tmp_path / "log") == expected
    assert "".join(sorted((tmp_path / "log").read_text())) == called


class _Engine:
    """As much of a trainer as the handlers below look at."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(iteration=0, max_epochs=1, epoch_length=100)
        self.terminated = False

    def terminate(self) -> None:
        self.terminated = True


def _steps_until_stopped(seconds: float) -> tuple[int, bool]:
    engine, interruption = _Engine(), Interruption()
    schedule: Any = SimpleNamespace(set_progress=lambda *_: None)
    budget = TrainingBudget(schedule, max_minutes=seconds / 60)
    budget.start(engine)
    # the second's clock is an hour ahead: it would stop at once if it were asked
    budget.seconds_before = 3600.0 * process_group.rank()
    while not engine.terminated:
        engine.state.iteration += 1
        if seconds > 100 and process_group.rank() == 1 and engine.state.iteration == 4:
            interruption._note(signal.SIGTERM, None)
            interruption._note(signal.SIGTERM, None)  # torchrun's echo
        interruption._stop_if_asked(engine)
        budget.advance(engine)
    return engine.state.iteration, interruption.unfinished


def test_all_stop_after_the_same_step() -> None:
    """Processes that end a step apart wait for each other for ever."""
    assert on_ranks(_steps_until_stopped, 2, 1000.0) == [(4, True)] * 2  # the signal reached the second only
    by_clock = on_ranks(_steps_until_stopped, 2, 0.05)
    assert by_clock[0] == by_clock[1]
    assert by_clock[0][0] > 1
    assert not by_clock[0][1]


def _gradient(rows: torch.Tensor) -> tuple[torch.Tensor, list[str]]:
    torch.manual_seed(process_group.rank())  # weights differ until the first gives its own to all
    network = torch.nn.Linear(3, 2)
    wrapped = data_parallel(network, "cpu")
    share = rows.chunk(process_group.world_size())[process_group.rank()]
    wrapped(share).square().mean().backward()
    assert network.weight.grad is not None
    return network.weight.grad.numpy(), list(network.state_dict())


def test_gradients_are_those_of_the_whole_batch() -> None:
    rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    alone = torch.nn.Linear(3, 2)
    alone(rows).square().mean().backward()
    for gradient, names in on_ranks(_gradient, 2, rows):
        torch.testing.assert_close(torch.from_numpy(gradient), alone.weight.grad)
        assert names == ["weight", "bias"]  # a checkpoint knows nothing of the wrapping


def _gloo_threads_after_the_end() -> list[int]:
    """How many threads of gloo there are while a network outlives `finish`, and after it."""
    network = data_parallel(torch.nn.Linear(2, 2), "cpu", static_graph=False)
    network(torch.ones(1, 2)).sum().backward()
    process_group.finish()
    counts = []
    for _ in range(2):
        gc.collect()
        names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
        counts.append(sum("gloo" in name for name in names))
        network = None
    return counts


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="names of threads are in /proc")
def test_nobody_waits_for_threads_of_gloo() -> None:
    """Who does may wait for ever: it holds Python's lock, which they may need to drop the last message's tensors."""
    for before, after in on_ranks(_gloo_threads_after_the_end, 2):
        assert before == after > 0
