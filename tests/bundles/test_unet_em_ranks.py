"""EM bundle on several ranks: they train what one process trains, score and predict every slice once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import itk
import pytest
import torch

from bundle_commands import UNET_EM, Finished, command, environment
from forked_ranks import names, ranks_run
from monai_ext.datasets.em_writing import write_stack

FILES = ("train.json", "tiny.json")
KEYS: dict[str, Any] = {"affinity": "disabled", "device": "cpu"}
# dropout draws other values on every rank, and bfloat16 would hide behind its rounding whether the rest is equal
EXACT = KEYS | {"dropout": 0, "amp": False}
SAME = EXACT | {"max_epochs": 2, "epoch_length": 3, "learning_rate": 0.01, "nfolds": 4}  # three slices to validate
# more threads than the processor that a rank may be given would wait for each other
ENVIRONMENT = {**environment(), "OMP_NUM_THREADS": "1"}


def run(cwd: Path, ranks: int, run_id: str, **overrides: Any) -> list[Finished]:
    return ranks_run(cwd, ranks, run_id, *FILES, bundle=UNET_EM, **overrides)


def infer(cwd: Path, ranks: int, **overrides: Any) -> list[Finished]:
    keys = {"device": "cpu", "amp": False, **overrides}
    return ranks_run(cwd, ranks, "inference", "inference.json", bundle=UNET_EM, **keys)


def weights(folder: Path, name: str = "model_final.pt") -> dict[str, torch.Tensor]:
    return torch.load(folder / name, weights_only=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name[0] != "."}


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("em_ranks") / "work"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def alone(cwd: Path) -> Path:
    """A training of one process with batches of two."""
    (done,) = run(cwd, 1, "training", output_dir="one", batch_size=2, **SAME)
    assert done.status == 0, done.err
    return cwd / "one"


def test_two_ranks_train_what_one_process_trains(cwd: Path, alone: Path) -> None:
    done = run(cwd, 2, "training", output_dir="two", batch_size=1, **SAME)
    assert [d.status for d in done] == [0, 0], done[0].err + done[1].err
    two = cwd / "two"
    # the same sums in another order: float32 rounding, which Adam's division by a small root can enlarge
    for name, expected in weights(alone).items():
        torch.testing.assert_close(weights(two)[name], expected, rtol=1e-4, atol=1e-5)
    for a, b in zip(rows(alone), rows(two), strict=True):
        for key in ("loss", "dice", "cross_entropy"):
            assert b[key] == pytest.approx(a[key], rel=1e-4)
        # three slices on two ranks: each counts once, or the mean of the three would be another
        assert b["soft_dice"] == pytest.approx(a["soft_dice"], rel=1e-4)
        assert b["class_dice"] == pytest.approx(a["class_dice"], abs=2e-3)  # a pixel at one half may turn over
    assert names(alone) == names(two)
    assert sorted(p.name for p in cwd.iterdir()) == ["one", "runs", "two"]
    for line in ("output: ", "2 processes train together", "epoch 2: loss", "mean foreground Dice "):
        assert done[0].out.count(line) + done[0].err.count(line) == 1, line
    assert done[1].out + done[1].err == ""


def test_every_slice_is_scored_and_predicted_once(cwd: Path, alone: Path) -> None:
    """Three slices on two ranks and two on three; files are equal to the byte."""
    keys = EXACT | {"ckpt_path": str(alone / "model.pt"), "nfolds": 4}
    for ranks in (1, 2):
        done = run(cwd, ranks, "evaluating", output_dir=f"scored_{ranks}", **keys)
        assert [d.status for d in done] == [0] * ranks, done[0].err
        assert sum(d.out.count("V_rand") for d in done) == 1
    found = contents(cwd / "scored_1" / "evaluation")
    assert len(found) == 5
    assert contents(cwd / "scored_2" / "evaluation") == found
    raw = next(cwd.glob("runs/unet_em/phantom/prepared/raw")) / "test-volume.tif"
    write_stack(cwd / "two.tif", itk.array_from_image(itk.imread(str(raw)))[:2])
    for ranks in (1, 3):
        done = infer(cwd, ranks, input="two.tif", ckpt_path=str(alone / "model.pt"), output_dir=f"out_{ranks}")
        assert [d.status for d in done] == [0] * ranks, done[0].err
        assert sum(d.out.count("2 pages of") for d in done) == 1
    assert contents(cwd / "out_3") == contents(cwd / "out_1")
    assert list(contents(cwd / "out_3")) == ["two-masks.tif"]


def test_mistakes_are_said_once(cwd: Path) -> None:
    broken = run(cwd, 2, "training", output_dir="never", patch_size=[75], max_epoch=3, **KEYS)
    assert [d.status for d in broken] == [1, 1]
    assert sum(d.err.count("did you mean max_epochs") for d in broken) == 1
    broken = infer(cwd, 2, input="nowhere.tif", output_dir="never")
    assert [d.status for d in broken] == [1, 1]
    assert sum(d.err.count("nowhere.tif: does not exist") for d in broken) == 1
    assert not any("Traceback" in d.err for d in broken)
    assert not (cwd / "never").exists()


def rank_command(ranks: int, *files: str, **overrides: Any) -> list[str]:
    """A training as torchrun starts it."""
    line = command("training", *files, bundle=UNET_EM, **overrides)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    return launcher + line[line.index("-m") :]


def launched(cwd: Path, line: list[str]) -> Finished:
    done = subprocess.run(line, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.mark.long
def test_stopped_ranks_go_on_together(tmp_path: Path) -> None:
    """By torchrun itself, which passes the signal on to its processes."""
    options = EXACT | {"max_epochs": 8, "epoch_length": 4, "val_interval": 4, "learning_rate": 0.01}
    files = (*FILES, "multi_gpu_train.json")
    whole = launched(tmp_path, rank_command(2, *files, output_dir="whole", **options))
    assert whole.status == 0, whole.err
    process = subprocess.Popen(
        rank_command(2, *files, output_dir="cut", **options),
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
    done = launched(tmp_path, rank_command(2, *files, output_dir="cut", resume=True, **options))
    assert done.status == 0, done.err
    assert done.out.count("resumed from") == 1
    for name, expected in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "cut")[name], expected, rtol=0, atol=0)


@pytest.mark.long
def test_without_the_overlay_processes_are_not_let_loose(tmp_path: Path) -> None:
    done = launched(tmp_path, rank_command(2, *FILES, output_dir="loose"))
    assert done.status != 0
    assert "multi_gpu_train.json" in done.err
    assert not (tmp_path / "loose" / "last.pt").exists()
