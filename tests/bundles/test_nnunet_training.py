"""nnU-Net bundle: training by the command line, on the phantom."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bundle_commands import Finished, bundle_run, command, environment
from monai_ext.planning.plan import Plan

RUN = Path("runs/nnunet/phantom/0")


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def test_training_ends_with_a_table_and_the_paths(trained: tuple[Path, Finished]) -> None:
    folder, done = trained
    assert done.status == 0, done.err
    run = folder / RUN
    lines = done.out.strip().splitlines()
    printed = [line for line in lines if not line.startswith("20")]  # MONAI's own dated lines come before ours
    assert next(line for line in printed if line.startswith("output: ")) == f"output: {run.resolve()}"
    metrics = json.loads((run / "metrics.json").read_text())
    assert lines[-1] == f"mean foreground Dice {metrics['mean_dice']:.3f}"
    for name in ("model.pt", "model_final.pt", "plan.json", "metrics.json", "overlay.png"):
        assert (run / name).stat().st_size > 0
        assert str((run / name).resolve()) in done.out
    assert {"ellipsoid", "tube"} == set(metrics["dice"])
    assert all(any(line.startswith(name) for line in lines) for name in ("ellipsoid", "tube", "mean"))
    assert "epoch 1/1" in done.err  # the progress bar
    assert "0:00 left" in done.out
    assert sorted(p.name for p in folder.iterdir()) == ["runs"]


def test_plan_travels_with_the_weights(trained: tuple[Path, Finished]) -> None:
    run = trained[0] / RUN
    plan = Plan.load(run / "plan.json")
    assert plan.patch_size == (16, 16, 16)
    assert "given" in plan.why["patch_size"]
    weights = torch.load(run / "model.pt", weights_only=True)
    assert all(isinstance(v, torch.Tensor) for v in weights.values())


def test_tensorboard_has_curves_and_slices(trained: tuple[Path, Finished]) -> None:
    events = EventAccumulator(str(trained[0] / RUN / "tensorboard"))
    events.Reload()
    wanted = {
        "train/loss",
        "train/dice",
        "train/cross_entropy",
        "train/learning_rate",
        "train/seconds_per_iteration",
        "validation/mean_dice",
        "validation/dice_ellipsoid",
        "validation/dice_tube",
    }
    assert wanted <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["validation/slices"]
    assert len(list((trained[0] / RUN / "tensorboard").iterdir())) == 1


def test_second_training_does_not_overwrite(trained: tuple[Path, Finished]) -> None:
    folder, _ = trained
    before = (folder / RUN / "model.pt").stat().st_mtime_ns
    done = bundle_run(folder, "training", "train.json", "tiny.json")
    assert done.status == 1
    assert "--resume True" in done.err
    assert "--overwrite True" in done.err
    assert "Traceback" not in done.err
    assert (folder / RUN / "model.pt").stat().st_mtime_ns == before


def test_resume_of_a_finished_training_reports_again(trained: tuple[Path, Finished]) -> None:
    folder, first = trained
    done = bundle_run(folder, "training", "train.json", "tiny.json", resume=True)
    assert done.status == 0, done.err
    assert done.out.strip().splitlines()[-1] == first.out.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.long) for n in (signal.SIGINT, signal.SIGKILL))]
)
def test_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path, number: signal.Signals) -> None:
    """Steps define the schedule here, so an interrupted run must end with the very weights of an undisturbed one."""
    options = {"max_epochs": 4, "epoch_length": 6, "val_interval": 2, "num_workers": 1}
    whole = bundle_run(tmp_path, "training", "train.json", "tiny.json", output_dir="whole", **options)
    assert whole.status == 0, whole.err
    line = command("training", "train.json", "tiny.json", output_dir="cut", **options)
    process = subprocess.Popen(
        line, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut" / "last.pt").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == -number
    if number != signal.SIGKILL:  # which leaves no time for words, and loader workers may complain
        assert "--resume True" in out
        assert "Traceback" not in err
    saved = torch.load(tmp_path / "cut" / "last.pt", weights_only=True)
    assert 6 <= saved["iteration"] < 24
    done = bundle_run(tmp_path, "training", "train.json", "tiny.json", output_dir="cut", resume=True, **options)
    assert done.status == 0, done.err
    expected = torch.load(tmp_path / "whole" / "model_final.pt", weights_only=True)
    found = torch.load(tmp_path / "cut" / "model_final.pt", weights_only=True)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    assert not list((tmp_path / "cut").glob(".*"))  # no half-written file is left


def test_minutes_stop_cleanly_with_the_rate_at_its_end(tmp_path: Path) -> None:
    done = bundle_run(
        tmp_path, "training", "train.json", "tiny.json", max_minutes=0.1, max_epochs=100000, val_interval=100000
    )
    assert done.status == 0, done.err
    rows = [json.loads(line) for line in (tmp_path / RUN / "log.jsonl").read_text().splitlines()]
    assert len(rows) > 2
    assert rows[-1]["learning_rate"] < 0.1 * max(row["learning_rate"] for row in rows)
    metrics = json.loads((tmp_path / RUN / "metrics.json").read_text())
    assert 0.1 <= metrics["training_minutes"] < 0.5


def test_diverged_training_stops_before_anything_is_saved(tmp_path: Path) -> None:
    done = bundle_run(
        tmp_path, "training", "train.json", "tiny.json", learning_rate=1e20, warmup=0, grad_clip=0, epoch_length=15
    )
    assert done.status == 1
    assert "the loss or its gradient is not finite, 10 in a row" in done.err
    assert "Traceback" not in done.err
    assert not list((tmp_path / RUN).glob("*.pt"))


def test_same_seed_same_training_whatever_the_workers(tmp_path: Path) -> None:
    for name, workers in (("none", 0), ("two", 2)):
        done = bundle_run(tmp_path, "training", "train.json", "tiny.json", output_dir=name, num_workers=workers)
        assert done.status == 0, done.err
    assert losses(tmp_path / "none") == losses(tmp_path / "two")
