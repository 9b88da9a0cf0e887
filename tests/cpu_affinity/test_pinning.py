"""Pinning: against a kernel of Python for the rules, and in real processes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from machines import machine, of_socket, write_kernel_files
from monai_ext.cpu_affinity import describe, parse_cpulist, pinning, set_affinity
from monai_ext.errors import InputError

VARIABLES = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE", "RANK", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
TWO_SOCKETS = machine([[2] * 4, [2] * 4])


class Kernel:
    """Masks of the threads of a process; `allowed` is the cpuset, which no mask leaves."""

    def __init__(self, allowed: Iterable[int]) -> None:
        self.allowed = frozenset(allowed)
        self.masks = {0: self.allowed}

    def get(self, thread: int) -> set[int]:
        return set(self.masks[thread])

    def set(self, thread: int, cpus: Iterable[int]) -> None:
        if not self.allowed & frozenset(cpus):
            raise OSError(22, "Invalid argument")
        self.masks[thread] = self.allowed & frozenset(cpus)


class Torch:
    def __init__(self, threads: int) -> None:
        self.threads = threads

    def get_num_threads(self) -> int:
        return self.threads

    def set_num_threads(self, threads: int) -> None:
        self.threads = threads


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kernel:
    """A process on two sockets of four cores with two threads, no GPU, no torch, no launcher."""
    simulated = Kernel(range(16))
    monkeypatch.setattr(os, "sched_getaffinity", simulated.get, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", simulated.set, raising=False)
    monkeypatch.setattr(pinning, "SYSTEM_ROOT", write_kernel_files(tmp_path / "system", TWO_SOCKETS))
    monkeypatch.setattr(pinning, "TASKS", tmp_path / "tasks")
    monkeypatch.setattr(pinning, "_past", pinning._Past())
    monkeypatch.setattr(pinning, "gpu_localities", lambda gpus, highest: (None,) * len(gpus))
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return simulated


def launched(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, text in variables.items():
        monkeypatch.setenv(name, text)


def cpus(text: str) -> tuple[int, ...]:
    return tuple(sorted(parse_cpulist(text)))


def test_rank_of_the_launcher_is_text(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, LOCAL_RANK="1", LOCAL_WORLD_SIZE="4", WORLD_SIZE="8", RANK="5")
    assert set_affinity() == cpus("1,3,9,11")
    assert kernel.masks[0] == set(cpus("1,3,9,11"))


@pytest.mark.parametrize("mode", ["socket", "single", "single_unique", "socket_unique_continuous"])
def test_every_mode_takes_the_rank_of_the_launcher(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    launched(monkeypatch, LOCAL_RANK="3", LOCAL_WORLD_SIZE="4")
    wanted = {"socket": "4-7,12-15", "single": "4", "single_unique": "5", "socket_unique_continuous": "6-7,14-15"}
    assert set_affinity(mode) == cpus(wanted[mode])


def test_arguments_before_variables(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
    assert set_affinity("single_unique", 5, 8) == (5,)


def test_world_size_where_the_launcher_gives_nothing_better(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, LOCAL_RANK="1", WORLD_SIZE="2")
    assert set_affinity("socket") == cpus("4-7,12-15")


def test_single_process_without_gpu_keeps_everything(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = Torch(16)  # set by the user to more than there are cores: nothing is taken away, so it stays
    monkeypatch.setitem(sys.modules, "torch", torch)
    launched(monkeypatch, WORLD_SIZE="2")  # left by something else
    assert set_affinity() == tuple(range(16))
    assert torch.threads == 16


def test_second_call_does_not_shrink(kernel: Kernel) -> None:
    first = set_affinity("socket_unique_interleaved", 1, 4)
    assert set_affinity("socket_unique_interleaved", 1, 4) == first == cpus("1,3,9,11")
    assert set_affinity("socket_unique_interleaved", 0, 4) == cpus("0,2,8,10")
    assert set_affinity("socket", 3, 4) == cpus("4-7,12-15")
    assert set_affinity("disabled", 3, 4) == tuple(range(16))


def test_a_mask_set_by_somebody_else_is_a_new_start(kernel: Kernel) -> None:
    set_affinity("socket", 0, 2)
    kernel.masks[0] = frozenset({2, 3, 4})
    assert set_affinity("socket_unique_interleaved", 0, 1) == (2, 3, 4)
    assert set_affinity("socket_unique_interleaved", 0, 3) == (2,)


def test_disabled_sets_nothing(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the mask was set")

    torch = Torch(64)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    kernel.masks[0] = frozenset({1, 2})
    assert set_affinity("disabled", 1, 2) == (1, 2)
    assert torch.threads == 64


def test_mask_of_a_container(kernel: Kernel) -> None:
    kernel.masks[0] = frozenset({2, 6, 10})  # the files show 16 CPUs
    assert set_affinity("socket_unique_interleaved", 0, 2) == (2, 10)
    assert set_affinity("socket_unique_interleaved", 1, 2) == (6,)


def test_cpuset_that_shrank_meanwhile(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    set_affinity("socket", 0, 2)
    kernel.allowed = frozenset({0, 1})  # what is applied stays, as in a kernel that has not moved the process yet
    assert set_affinity("socket", 1, 2) == cpus("0-3,8-11")
    assert "Invalid argument, CPUs stay 0-3,8-11" in caplog.text


def test_gpus_of_ranks(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[int], int]] = []

    def localities(gpus: list[int], highest: int) -> tuple[frozenset[int], ...]:
        asked.append((gpus, highest))
        return tuple(of_socket(TWO_SOCKETS, 1 - gpu % 2) for gpu in gpus)

    monkeypatch.setattr(pinning, "gpu_localities", localities)
    assert set_affinity("socket_unique_continuous", 2, 4, "cuda:2") == cpus("6-7,14-15")  # GPU 0 has the cores before
    assert set_affinity("socket_unique_continuous", 0, 1, "cuda:1") == cpus("0-3,8-11")
    assert set_affinity("socket_unique_continuous", 0, 1) == cpus("4-7,12-15")
    assert set_affinity("socket_unique_continuous", 0, 1, "cpu") == tuple(range(16))
    assert asked == [([0, 1, 2, 3], 15), ([1], 15), ([0], 15)]


def test_threads_of_torch_follow_the_cores(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = Torch(8)
    monkeypatch.setitem(sys.modules, "torch", torch)
    for mode, ranks, threads in (
        ("socket_unique_interleaved", 4, 2),
        ("socket_unique_interleaved", 2, 4),  # from the first value, not from the last
        ("single", 2, 1),
        ("disabled", 2, 8),
    ):
        set_affinity(mode, 0, ranks)
        assert torch.threads == threads
    torch.threads = 3  # by the user
    set_affinity("socket_unique_interleaved", 0, 2)
    assert torch.threads == 3
    launched(monkeypatch, OMP_NUM_THREADS="3")
    set_affinity("single", 0, 2)
    assert torch.threads == 3


def test_threads_that_run_already_move_too(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    for thread in (0, 41, 42, 43):
        (pinning.TASKS / str(thread)).mkdir(parents=True)
    kernel.masks |= {41: kernel.allowed, 42: frozenset({7})}  # 42 was pinned by somebody, 43 has ended
    known = kernel.get

    def get(thread: int) -> set[int]:
        if thread == 43:
            raise ProcessLookupError
        return known(thread)

    monkeypatch.setattr(os, "sched_getaffinity", get)
    assert set_affinity("single_unique", 1, 2) == (4,)
    assert kernel.masks == {0: {4}, 41: {4}, 42: {7}}


def test_systems_without_affinity(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    monkeypatch.delattr(os, "sched_getaffinity")
    caplog.set_level(logging.INFO, "monai_ext")
    assert set_affinity() == ()
    assert caplog.messages == ["CPU affinity socket_unique_interleaved: this system has none, nothing is set"]
    with pytest.raises(InputError, match="--affinity"):
        set_affinity("sockets")


def test_refusal_does_not_end_a_training(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    assert set_affinity("socket", 0, 2) == tuple(range(16))
    assert "Operation not permitted, CPUs stay 0-15" in caplog.text


def test_unknown_mode_names_the_key_and_the_choices(kernel: Kernel) -> None:
    with pytest.raises(InputError, match=r"--affinity is 'sockets', must be one of socket, single, .*disabled\. Cure"):
        set_affinity("sockets")


@pytest.mark.parametrize(
    "variables",
    [
        {"LOCAL_RANK": "one", "LOCAL_WORLD_SIZE": "2"},
        {"LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"},
        {"LOCAL_RANK": "-1", "LOCAL_WORLD_SIZE": "2"},
        {"LOCAL_RANK": "1"},
    ],
)
def test_ranks_that_do_not_fit(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    launched(monkeypatch, **variables)
    with pytest.raises(InputError, match=rf"LOCAL_RANK '{variables['LOCAL_RANK']}'.*Cure: start with torchrun"):
        set_affinity()


def test_a_rank_given_as_text_is_refused(kernel: Kernel) -> None:
    with pytest.raises(TypeError):
        set_affinity("socket", "1", 2)  # type: ignore[arg-type]


def test_log_says_what_a_rank_got(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "monai_ext")
    set_affinity("socket_unique_continuous", 1, 4)
    assert caplog.messages == [
        "CPU affinity socket_unique_continuous, rank 1 of 4: CPUs 2-3,10-11 (2 cores, socket 0, NUMA node 0)"
    ]


def test_log_warns_once_of_a_shortage(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    kernel.masks[0] = frozenset({5})
    assert [set_affinity("socket_unique_interleaved", rank, 2) for rank in (0, 1)] == [(5,), (5,)]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["CPU affinity socket_unique_interleaved: 1 physical core for 2 ranks: ranks share CPUs"]


def test_description() -> None:
    four_nodes = machine([[2] * 4, [2] * 4], nodes_per_socket=2)
    assert describe("socket", 0, 1, range(16), four_nodes) == (
        "CPU affinity socket, rank 0 of 1: CPUs 0-15 (8 cores, sockets 0-1, NUMA nodes 0-3)"
    )
    assert describe("single", 1, 2, [14], four_nodes).endswith("CPUs 14 (1 core, socket 1, NUMA node 3)")


PROCESS = """
import json, os, sys, threading
import numpy, torch
from torch.utils.data import DataLoader, Dataset

class Masks(Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, index):
        return sorted(os.sched_getaffinity(0))

def first(items):
    return items[0]

def threads():
    return [sorted(os.sched_getaffinity(int(t))) for t in os.listdir("/proc/self/task")]

if __name__ == "__main__":
    done = threading.Event()
    sleeper = threading.Thread(target=done.wait)
    sleeper.start()
    before = torch.get_num_threads()
    from monai_ext.cpu_affinity import set_affinity
    got = set_affinity(*sys.argv[1:2], device="cpu")
    again = set_affinity(*sys.argv[1:2], device="cpu")
    seen = {"got": got, "again": again, "threads": threads(), "torch": [before, torch.get_num_threads()]}
    done.set()
    sleeper.join()
    for method in ("fork", "spawn"):
        loader = DataLoader(Masks(), num_workers=1, multiprocessing_context=method, collate_fn=first)
        seen[method] = list(loader)
    print(json.dumps(seen))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_real_processes_and_their_loader_workers_are_pinned(tmp_path: Path) -> None:
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    environment = {name: text for name, text in os.environ.items() if name not in VARIABLES}
    allowed = sorted(os.sched_getaffinity(0))
    ranks = min(2, len(allowed))
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(script), "socket_unique_interleaved"],
            env=environment | {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks), "WORLD_SIZE": str(ranks)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    seen = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in running]
    for process in seen:
        got = process["got"]
        assert got
        assert process["again"] == got
        assert all(mask == got for mask in process["threads"])
        assert len(process["threads"]) > 1
        assert process["fork"] == process["spawn"] == [got, got]
        before, after = process["torch"]
        assert after <= min(before, len(got))
    if ranks == 2:
        first, second = (set(process["got"]) for process in seen)
        assert first.isdisjoint(second)
        assert first | second <= set(allowed)
    assert sorted(os.sched_getaffinity(0)) == allowed  # this process is as it was


def test_import_loads_no_torch() -> None:
    code = "import sys, monai_ext.cpu_affinity; print({'torch', 'monai', 'numpy', 'pynvml'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
