"""nnU-Net bundle: the benchmark run ids and the profile of a training, by the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bundle_commands import NNUNET, bundle_run, environment
from monai_ext.benchmark.benchmark_results import read_benchmarks
from monai_ext.datasets.phantom import make_phantom


def test_benchmarks_time_the_bundle_and_leave_no_model(tmp_path: Path) -> None:
    limits = {"warmup_steps": 1, "bench_batches": 3, "results_file": "results.csv", "output_dir": "run", "overlap": 0}
    for run_id in ("training_benchmark", "inference_benchmark"):
        done = bundle_run(tmp_path, run_id, "train.json", "tiny.json", **limits)
        assert done.status == 0, done.err
        assert "1 steps warm-up, 3 timed" in done.out
    rows = read_benchmarks(tmp_path / "results.csv")
    assert [(r["mode"], r["batch_size"], r["timed_steps"]) for r in rows] == [
        ("train", "2", "3"),
        ("predict", "1", "3"),
    ]
    assert "loader included" in rows[0]["data"]
    assert not list((tmp_path / "run").glob("*.pt"))


@pytest.mark.parametrize("mode", ["train", "predict"])
def test_command_times_the_bundle_on_a_dataset(mode: str, tmp_path: Path) -> None:
    network = ["--patch_size", "16,16,16", "--batch_size", "2", "--base_features", "4"]
    limits = ["--warmup_steps", "0", "--bench_batches", "2", "--results", "results.csv"]
    line = ["-W", "ignore", "-m", "monai_ext", "benchmark", "nnunet", "--mode", mode, "--device", "cpu"]
    given = ["--dataset_dir", str(make_phantom(tmp_path / "Toy")), "--config_file", str(NNUNET / "train.json")]
    done = subprocess.run(
        [sys.executable, *line, *given, *network, *limits],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (row,) = read_benchmarks(tmp_path / "results.csv")
    assert (row["mode"], row["timed_steps"], row["patch_size"]) == (mode, "2", "16x16x16")
    assert not list(tmp_path.rglob("*.pt"))
    assert not (tmp_path / "runs" / "nnunet" / "Toy" / "0").exists()  # trainings of the dataset are left alone


def test_missing_dataset_is_one_message(tmp_path: Path) -> None:
    line = ["-W", "ignore", "-m", "monai_ext", "benchmark", "nnunet", "--dataset_dir", "nowhere"]
    given = ["--config_file", str(NNUNET / "train.json")]
    done = subprocess.run(
        [sys.executable, *line, *given], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert "nowhere: dataset folder does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_profile_writes_a_trace_beside_the_curves(tmp_path: Path) -> None:
    done = bundle_run(
        tmp_path, "training", "train.json", "tiny.json", output_dir="run", profile="trace", epoch_length=10
    )
    assert done.status == 0, done.err
    assert len(list((tmp_path / "run" / "tensorboard").glob("*.pt.trace.json"))) == 1
