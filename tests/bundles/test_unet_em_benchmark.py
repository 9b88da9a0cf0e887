"""EM bundle: timing instead of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from bundle_commands import UNET_EM, bundle_run
from monai_ext.benchmark.benchmark_results import published_figures, read_benchmarks
from monai_ext.benchmark.bundle_steps import slice_columns, time_forward
from monai_ext.planning.em_plan import EmPlan


@pytest.fixture
def configured_output() -> Callable[..., str]:
    def output_dir(**changes: object) -> str:
        parser = ConfigParser()
        parser.read_config(str(UNET_EM / "train.json"))
        parser.update({"bundle_root": str(UNET_EM.parent), **changes})
        return str(parser.get_parsed_content("output_dir"))

    return output_dir


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
        assert "published" not in done.out  # those are of the whole network at 572 pixels
    rows = read_benchmarks(tmp_path / "results.csv")
    assert [(row["benchmark"], row["mode"], row["batch_size"], row["timed_steps"]) for row in rows] == [
        ("unet_em bundle", "train", "8", "3"),
        ("unet_em bundle", "predict", "8", "3"),
    ]
    assert not list((tmp_path / "run").glob("*.pt"))


def test_figures_stand_beside_their_own_network_only(capsys: pytest.CaptureFixture[str]) -> None:
    plan = EmPlan("a", "tile", (572, 572), (0.0, 255.0), 64)
    about = {"amp": False, "amp_dtype": "bfloat16"}
    batch = [{"image": torch.zeros(8, 1, 4, 4)}]
    for shown in (plan, replace(plan, base_features=32), replace(plan, input_size=(380, 380))):
        time_forward(batch, torch.nn.Identity(), lambda x, n: n(x), slice_columns(shown, 8), "cpu", 0, 2, about)
        assert ("published: A100 80G" in capsys.readouterr().out) == (shown is plan)


def test_benchmark_leaves_a_training_alone(configured_output: Callable[..., str]) -> None:
    assert configured_output(benchmark=True).endswith("0_benchmark")
    assert configured_output().endswith("/0")


@pytest.mark.parametrize(("mode", "batch", "expected"), [("train", 8, 141.03), ("predict", 8, 440.71)])
def test_published_figures(mode: str, batch: int, expected: float) -> None:
    figures = published_figures("unet_em bundle", mode, 2, batch)
    (a100,) = [f for f in figures if f["device"] == "A100 80G" and f["precision"] == "amp"]
    assert float(a100["throughput"]) == expected
