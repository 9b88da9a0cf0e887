"""nnU-Net bundle: the benchmark run ids and the profile of a training, by the command line."""

from __future__ import annotations

from pathlib import Path

from bundle_commands import bundle_run
from monai_ext.benchmark.benchmark_results import read_benchmarks


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


def test_profile_writes_a_trace_beside_the_curves(tmp_path: Path) -> None:
    done = bundle_run(
        tmp_path, "training", "train.json", "tiny.json", output_dir="run", profile="trace", epoch_length=10
    )
    assert done.status == 0, done.err
    assert len(list((tmp_path / "run" / "tensorboard").glob("*.pt.trace.json"))) == 1
