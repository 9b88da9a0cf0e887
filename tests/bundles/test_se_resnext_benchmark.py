"""Classification bundle: benchmarks by the command line."""

from __future__ import annotations

import csv
from pathlib import Path

from bundle_commands import SE_RESNEXT, bundle_run

STEPS = {"warmup_steps": 1, "bench_batches": 2, "results_file": "rows.csv"}


def test_benchmark_key_times_instead_of_training(tmp_path: Path) -> None:
    done = bundle_run(tmp_path, "training", "train.json", "tiny.json", bundle=SE_RESNEXT, benchmark=True, **STEPS)
    assert done.status == 0, done.err
    (row,) = csv.DictReader((tmp_path / "rows.csv").open())
    assert (row["mode"], row["batch_size"], row["warmup_steps"], row["timed_steps"]) == ("train", "8", "1", "2")
    assert row["data"] == "phantom, loader included"
    assert row["patch_size"] == "32x32"
    assert float(row["latency_ms_99"]) >= float(row["latency_ms_50"]) > 0
    assert not list(tmp_path.rglob("model*.pt"))


def test_synthetic_images_time_the_network_alone(tmp_path: Path) -> None:
    options = {"synthetic_size": 32, "arch": "se-resnext-narrow", "batch_size": 2, "amp": False}
    for run_id in ("training_benchmark", "inference_benchmark"):
        done = bundle_run(tmp_path, run_id, "train.json", bundle=SE_RESNEXT, **options, **STEPS)
        assert done.status == 0, done.err
        assert "99 %" in done.out
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert [row["mode"] for row in rows] == ["train", "predict"]
    assert {row["classes"] for row in rows} == {"1000"}
    assert all(row["data"].startswith("synthetic") for row in rows)
