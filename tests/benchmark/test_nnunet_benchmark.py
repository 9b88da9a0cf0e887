"""The benchmark command: what it times, prints and records."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import pytest
import torch

from monai_ext.benchmark import nnunet
from monai_ext.benchmark.benchmark_results import (
    PUBLISHED,
    append_benchmark,
    benchmark_row,
    format_benchmark,
    published_figures,
    read_benchmarks,
)
from monai_ext.benchmark.commands import BenchmarkCommands
from monai_ext.benchmark.nnunet import BenchmarkOptions, run_benchmark
from monai_ext.benchmark.timing import Timing
from monai_ext.errors import InputError

SMALL = {"batch_size": 2, "base_features": 4, "channels": 1, "classes": 2, "warmup_steps": 1, "bench_batches": 2}


def options(mode: str, dims: int, **changes: object) -> BenchmarkOptions:
    return BenchmarkOptions(**{"mode": mode, "spatial_dims": dims, "patch_size": (16,) * dims, **SMALL, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["train", "predict"])
@pytest.mark.parametrize("dims", [2, 3])
def test_every_mode_is_timed(mode: str, dims: int) -> None:
    timing, about = run_benchmark(options(mode, dims, channels_last=True))
    assert len(timing.seconds) == 2
    assert min(timing.seconds) > 0
    assert about["precision"] == "float32"
    assert about["peak_memory_mib"] > 0


@pytest.mark.parametrize(("mode", "changes"), [("train", True), ("predict", False)])
def test_only_a_training_step_changes_weights(mode: str, changes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[torch.nn.Module] = []

    class Spy(nnunet.PlanUNet):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
            built.append(self)

    monkeypatch.setattr(nnunet, "PlanUNet", Spy)
    step = nnunet._make_step(options(mode, 3), torch.device("cpu"))
    before = [p.detach().clone() for p in built[0].parameters()]
    step()
    same = all(torch.equal(a, b) for a, b in zip(before, built[0].parameters(), strict=True))
    assert same != changes


@pytest.mark.parametrize(("native", "precision", "warnings"), [(True, "bfloat16", 0), (False, "float32", 1)])
def test_mixed_precision_is_told(
    native: bool, precision: str, warnings: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nnunet, "has_native_bfloat16", lambda: native)
    with caplog.at_level(logging.WARNING):
        _, about = run_benchmark(options("predict", 2, amp=True))
    assert about["precision"] == precision
    assert sum("computed in float32" in record.message for record in caplog.records) == warnings


def test_all_impossible_options_are_listed() -> None:
    wrong = {"patch_size": (16, 16), "batch_size": 0, "classes": 1, "optimizer": "newton", "device": "gpu"}
    with pytest.raises(InputError) as error:
        run_benchmark(options("fly", 3, **wrong))
    message = str(error.value)
    assert "6 problems" in message
    named = ("--mode fly", "--patch_size", "--batch_size 0", "--classes 1", "--optimizer newton", "--device gpu")
    assert all(word in message for word in named)


def test_patch_is_reported_as_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Size] = []
    forward = nnunet.PlanUNet.forward
    monkeypatch.setattr(nnunet.PlanUNet, "forward", lambda self, x: (seen.append(x.shape), forward(self, x))[1])
    _, about = run_benchmark(options("predict", 3, patch_size=(18, 18, 18)))
    assert seen[0][2:] == about["patch_size"] == (20, 20, 20)  # two halvings: edges are multiples of 4


def test_too_little_memory_is_one_message() -> None:
    with pytest.raises(InputError, match="smaller --batch_size"):
        run_benchmark(options("predict", 3, batch_size=10**7, patch_size=(128, 128, 128)))


def test_other_errors_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(nnunet, "_make_step", fail)
    with pytest.raises(RuntimeError, match="something else"):
        run_benchmark(options("predict", 3))


def test_profile_is_recorded_after_the_timed_steps(tmp_path: Path) -> None:
    timing, _ = run_benchmark(options("predict", 2), profile=tmp_path)
    assert len(timing.seconds) == 2
    (trace,) = tmp_path.glob("*.pt.trace.json")
    assert any("conv2d" in event.get("name", "") for event in json.loads(trace.read_text())["traceEvents"])


def test_published_figures_are_shown_for_their_own_configuration_only() -> None:
    assert {f["device"] for f in published_figures("nnunet", "train", 3, 2)} == {"A100 80G", "V100 16G"}
    assert published_figures("nnunet", "train", 3, 3) == []
    assert BenchmarkOptions("train").is_published
    assert not BenchmarkOptions("train", base_features=16).is_published
    assert not BenchmarkOptions("train", deep_supervision=True).is_published


def test_table_shows_every_statistic_and_says_whose_figures_follow() -> None:
    about = {"mode": "train", "spatial_dims": 3, "patch_size": (128, 128, 128), "precision": "float32"}
    row = benchmark_row("nnunet", Timing((0.5, 1.5), 2, 3), about)
    title, header, here, *rest = format_benchmark(row, published_figures("nnunet", "train", 3, 2)).splitlines()
    assert "patch 128x128x128, 3 steps warm-up, 2 timed" in title
    assert header.split() == ["precision", "img/s", "ms", "mean", "50", "%", "90", "%", "95", "%", "99", "%", "max"]
    assert here.split()[-7:] == ["2", "1000", "1000", "1400", "1450", "1490", "1500"]
    assert len({len(line) for line in (header, here, *rest[:4])}) == 1  # columns stand below each other
    assert "NVIDIA DeepLearningExamples" in rest[-2]
    assert "loading included, which is not here" in rest[-2]
    assert "not a comparison" in rest[-1]
    assert "published" not in format_benchmark(row)


def test_processor_is_named_on_a_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "some GPU")
    assert "threads" in benchmark_row("x", Timing((0.1,), 1, 0), {"device": "cpu"})["device"]
    assert benchmark_row("x", Timing((0.1,), 1, 0), {"device": "cuda:0"})["device"] == "some GPU"


def test_command_records_a_row_and_plots_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.csv"
    command = BenchmarkCommands()
    command.nnunet(patch_size=(16, 16, 16), device="cpu", results=str(results), **SMALL)  # type: ignore[arg-type]
    command.nnunet(
        "predict", 2, patch_size=(16, 16), device="cpu", results=str(results), **SMALL  # type: ignore[arg-type]
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "nnunet train 3D, batch 2, patch 16x16x16" in printed
    assert "published" not in printed
    rows = read_benchmarks(results)
    assert [(r["mode"], r["spatial_dims"], r["timed_steps"]) for r in rows] == [
        ("train", "3", "2"),
        ("predict", "2", "2"),
    ]
    assert float(rows[0]["throughput"]) == pytest.approx(2 / float(rows[0]["latency_ms_mean"]) * 1e3, rel=1e-3)


def test_mistyped_options_of_the_command_are_input_errors(tmp_path: Path) -> None:
    command = BenchmarkCommands()
    with pytest.raises(InputError, match="such as --patch_size 128,128,128"):
        command.nnunet(patch_size=16, device="cpu", **SMALL)  # type: ignore[arg-type]
    data = {"dataset_dir": str(tmp_path), "config_file": str(tmp_path / "none.json"), "profile": "x"}
    with pytest.raises(InputError, match="3 problems"):
        command.nnunet("fly", device="cpu", **data)  # type: ignore[arg-type]


def test_file_with_other_columns_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("a,b\n1,2\n")
    row = benchmark_row("x", Timing((0.1,), 1, 0), {})
    with pytest.raises(InputError, match="other columns"):
        append_benchmark(path, row)
    assert path.read_text() == "a,b\n1,2\n"
    with pytest.raises(InputError, match="not found"):
        read_benchmarks(tmp_path / "none.csv")


def test_published_table_is_complete() -> None:
    with PUBLISHED.open() as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] == "nnunet"]
    assert len(rows) == 39  # 19 of training (one of 20 ran out of memory), 20 of prediction
    assert all(float(r["throughput"]) > 0 and r["source"] for r in rows)
