"""EM bundle: timing instead of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundle_commands import UNET_EM, bundle_run
from monai_ext.benchmark.benchmark_results import published_figures, read_benchmarks


def test_benchmark_key_times_instead_of_training(tmp_path: Path) -> None:
    limits = {"warmup_steps": 1, "bench_batches": 3, "results_file": "results.csv", "output_dir": "run"}
    for run_id in ("training", "evaluating"):
        done = bundle_run(
            tmp_path, run_id, "train.json", "tiny.json", bundle=UNET_EM, benchmark=True, batch_size=8, **limits
        )
        assert done.status == 0, done.err
        assert "1 steps warm-up, 3 timed" in done.out
        for column in ("img/s", "ms mean", "50 %", "90 %", "95 %", "99 %"):
            assert column in done.out
        assert "published: A100 80G" in done.out
    rows = read_benchmarks(tmp_path / "results.csv")
    assert [(row["benchmark"], row["mode"], row["batch_size"], row["timed_steps"]) for row in rows] == [
        ("unet_em bundle", "train", "8", "3"),
        ("unet_em bundle", "predict", "8", "3"),
    ]
    assert not list((tmp_path / "run").glob("*.pt"))


@pytest.mark.parametrize(("mode", "batch", "expected"), [("train", 8, 141.03), ("predict", 8, 440.71)])
def test_published_figures(mode: str, batch: int, expected: float) -> None:
    figures = published_figures("unet_em bundle", mode, 2, batch)
    (a100,) = [f for f in figures if f["device"] == "A100 80G" and f["precision"] == "amp"]
    assert float(a100["throughput"]) == expected
