"""EM bundle under torchrun: several processes train what one would have trained, and leave what one would have left."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bundle_commands import UNET_EM, Finished, bundle_run, command, environment

pytestmark = pytest.mark.slow
FILES = ("train.json", "tiny.json")
# dropout draws other values on every rank, and bfloat16 would hide behind its rounding whether the rest is equal
SAME: dict[str, Any] = {"dropout": 0, "amp": False, "max_epochs": 3, "epoch_length": 4, "learning_rate": 0.01}
# more threads than the processor that a rank may be given would wait for each other
ENVIRONMENT = {**environment(), "OMP_NUM_THREADS": "1"}


def rank_command(ranks: int, **overrides: Any) -> list[str]:
    """The training of `tiny.json` as torchrun starts it."""
    line = command("training", *FILES, "multi_gpu_train.json", bundle=UNET_EM, **overrides)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    return launcher + line[line.index("-m") :]


def on_ranks(cwd: Path, ranks: int, **overrides: Any) -> Finished:
    return launched(cwd, rank_command(ranks, **overrides))


def launched(cwd: Path, line: list[str]) -> Finished:
    done = subprocess.run(line, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    return Finished(done.returncode, done.stdout, done.stderr)


def weights(folder: Path, name: str = "model_final.pt") -> dict[str, torch.Tensor]:
    return torch.load(folder / name, weights_only=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def names(folder: Path) -> list[str]:
    """Files below a folder, with what differs between any two runs left out of their names."""
    return sorted(re.sub(r"tfevents.*", "tfevents", str(p.relative_to(folder))) for p in folder.rglob("*"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of one process with batches of two."""
    folder = tmp_path_factory.mktemp("ranks")
    done = bundle_run(folder, "training", *FILES, bundle=UNET_EM, output_dir="one", batch_size=2, nfolds=4, **SAME)
    assert done.status == 0, done.err
    return folder


def test_two_ranks_train_what_one_process_trains(alone: Path) -> None:
    done = on_ranks(alone, 2, output_dir="two", batch_size=1, nfolds=4, **SAME)
    assert done.status == 0, done.err
    one, two = alone / "one", alone / "two"
    # the same sums in another order: float32 rounding, which Adam's division by a small root can enlarge
    for name, expected in weights(one).items():
        torch.testing.assert_close(weights(two)[name], expected, rtol=1e-4, atol=1e-5)
    for a, b in zip(rows(one), rows(two), strict=True):
        for key in ("loss", "dice", "cross_entropy"):
            assert b[key] == pytest.approx(a[key], rel=1e-4)
        # three slices on two ranks: each counts once, or the mean of the three would be another
        assert b["soft_dice"] == pytest.approx(a["soft_dice"], rel=1e-4)
        assert b["class_dice"] == pytest.approx(a["class_dice"], abs=2e-3)  # a pixel at one half may turn over
    assert len(json.loads((two / "fold.json").read_text())["val"]) == 3
    assert names(one) == names(two)
    assert sorted(p.name for p in alone.iterdir()) == ["one", "runs", "two"]


def test_only_the_first_rank_speaks(alone: Path) -> None:
    done = on_ranks(alone, 3, output_dir="more", batch_size=1, max_epochs=1, epoch_length=1)  # two slices to validate
    assert done.status == 0, done.err
    for line in ("output: ", "3 processes train together", "validation soft Dice", "mean foreground Dice "):
        assert done.out.count(line) == 1, line
    broken = on_ranks(alone, 2, output_dir="never", patch_size="[75]", max_epoch=3)
    assert broken.status == 1
    assert broken.err.count("did you mean max_epochs") == 1
    assert not (alone / "never").exists()


def test_stopped_ranks_go_on_together(tmp_path: Path) -> None:
    options = SAME | {"max_epochs": 8, "val_interval": 4}
    whole = on_ranks(tmp_path, 2, output_dir="whole", **options)
    assert whole.status == 0, whole.err
    process = subprocess.Popen(
        rank_command(2, output_dir="cut", **options),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut" / "last.pt").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert out.count("go on with the same command and --resume True") == 1
    assert 4 <= weights(tmp_path / "cut", "last.pt")["iteration"] < 32
    done = on_ranks(tmp_path, 2, output_dir="cut", resume=True, **options)
    assert done.status == 0, done.err
    assert done.out.count("resumed from") == 1
    for name, expected in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "cut")[name], expected, rtol=0, atol=0)


def test_without_the_overlay_processes_are_not_let_loose(alone: Path) -> None:
    line = rank_command(2, output_dir="loose")
    line[line.index("--config_file") + 1] = str([str(UNET_EM / name) for name in FILES])
    done = launched(alone, line)
    assert done.status != 0
    assert "multi_gpu_train.json" in done.err
    assert not (alone / "loose" / "last.pt").exists()
