"""Two machines that train together, as two network namespaces: one loses its process, the training goes on.

What a machine is here: an address of its own that only the other can reach. The disk is common to both.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bundle_commands import UNET_EM, command, environment

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]
PORT = 29471
OPTIONS: dict[str, Any] = {"max_epochs": 12, "epoch_length": 4, "val_interval": 3, "batch_size": 1, "nfolds": 5}
STEPS = 12 * 4
PATIENCE = 900  # seconds; a machine that is gone is noticed after some tens of them


class Machine:
    """A network namespace with one end of a cable."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"host{number}-{os.getpid()}"
        self.cable = f"cab{number}-{os.getpid() % 10**6}"
        self.address = f"10.213.7.{number + 1}"

    def start(self, cwd: Path, *extra: str, **overrides: Any) -> subprocess.Popen[str]:
        """torchrun on this machine, with one process."""
        line = command("training", "train.json", "tiny.json", "multi_gpu_train.json", bundle=UNET_EM, **overrides)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
        launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"10.213.7.1:{PORT}", "--rdzv_id", "tiny"]
        # by itself torchrun knows its machine by the name, which is the same in all network namespaces
        launcher += ["--local_addr", self.address, "--rdzv_conf", f"is_host={int(self.number == 0)}", *extra]
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *launcher, *line[line.index("-m") :]],
            cwd=cwd,
            env={**environment(), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": self.cable},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def machines() -> Iterator[list[Machine]]:
    """Two machines with a cable between them; skipped where these cannot be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and the command ip for network namespaces")
    both = [Machine(0), Machine(1)]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        try:
            for one in both:
                ip("netns", "add", one.name)
            ip("link", "add", both[0].cable, "type", "veth", "peer", "name", both[1].cable)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        for one in both:
            ip("link", "set", one.cable, "netns", one.name)
            ip("-n", one.name, "addr", "add", f"{one.address}/24", "dev", one.cable)
            ip("-n", one.name, "link", "set", one.cable, "up")
            ip("-n", one.name, "link", "set", "lo", "up")
        yield both
    finally:
        for one in both:
            subprocess.run(["ip", "netns", "del", one.name], capture_output=True)


def children(process: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Status and output of all, which are killed if one hangs."""
    deadline = time.monotonic() + PATIENCE
    try:
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(0.2)
        hanging = [process for process in processes if process.poll() is None]
        assert not hanging, "a machine hangs"
    finally:
        for process in processes:
            if process.poll() is None:
                for worker in children(process.pid):
                    os.kill(worker, signal.SIGKILL)
                process.kill()
        texts = [process.communicate() for process in processes]
    return [(process.returncode, out, err) for process, (out, err) in zip(processes, texts, strict=True)]


def wait_for_checkpoint(folder: Path, running: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (folder / "last.pt").exists():
        assert all(process.poll() is None for process in running), ended(running)
        assert time.monotonic() < deadline
        time.sleep(0.02)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_final.pt", weights_only=True)


def files(folder: Path) -> set[str]:
    return {re.sub(r"events\..*", "events", str(path.relative_to(folder))) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def whole(machines: list[Machine], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training on both machines that nothing interrupts."""
    place = tmp_path_factory.mktemp("machines")
    done = ended([machine.start(place, output_dir="whole", **OPTIONS) for machine in machines])
    assert [status for status, _, _ in done] == [0, 0], done
    assert done[0][1].count("2 processes train together") + done[1][1].count("2 processes train together") == 1
    return place / "whole"


def check_result(whole: Path, folder: Path, out: str) -> None:
    """The result is that of an uninterrupted training, and it is not because nothing was interrupted."""
    resumed = re.findall(r"resumed from \S+last\S*\.pt at iteration (\d+)", out)
    assert len(resumed) == 1, out
    assert 0 < int(resumed[0]) < STEPS
    for name, expected in weights(whole).items():
        torch.testing.assert_close(weights(folder)[name], expected, rtol=0, atol=0)
    rows = (folder / "log.jsonl").read_text().splitlines()
    assert len(rows) == len((whole / "log.jsonl").read_text().splitlines())
    assert files(folder) == files(whole)


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("extra", [{}, {"overwrite": True}], ids=["new", "overwrite"])
def test_a_killed_process_costs_the_steps_since_the_last_checkpoint(
    machines: list[Machine], whole: Path, victim: int, extra: dict[str, Any]
) -> None:
    name = f"killed{victim}{len(extra)}"
    folder = whole.parent / name
    options = {**OPTIONS, **extra, "output_dir": name}
    running = [machine.start(whole.parent, "--max-restarts", "1", **options) for machine in machines]
    wait_for_checkpoint(folder, running)
    for worker in children(running[victim].pid):
        os.kill(worker, signal.SIGKILL)
    done = ended(running)
    assert [status for status, _, _ in done] == [0, 0], done
    check_result(whole, folder, done[0][1] + done[1][1])
    assert not list(folder.glob("previous-*"))


def test_without_restarts_a_killed_process_ends_the_training(machines: list[Machine], whole: Path) -> None:
    folder = whole.parent / "ended"
    options = {**OPTIONS, "output_dir": "ended"}
    running = [machine.start(whole.parent, "--max-restarts", "0", **options) for machine in machines]
    wait_for_checkpoint(folder, running)
    for worker in children(running[1].pid):
        os.kill(worker, signal.SIGKILL)
    done = ended(running)
    assert all(status != 0 for status, _, _ in done)
    again = ended([machine.start(whole.parent, **options) for machine in machines])
    assert all(status != 0 for status, _, _ in again)  # another launch goes on only if it is told to
    assert (again[0][2] + again[1][2]).count("already holds a training") == 1
    resumed = ended([machine.start(whole.parent, **options, resume=True) for machine in machines])
    assert [status for status, _, _ in resumed] == [0, 0], resumed
    check_result(whole, folder, resumed[0][1] + resumed[1][1])
