"""The benchmark command: what it times, prints and records."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from monai_ext.benchmark import nnunet
from monai_ext.benchmark.benchmark_results import (
    append_benchmark,
    benchmark_row,
    draw_benchmarks,
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


def test_mixed_precision_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(nnunet, "has_native_bfloat16", lambda native=native: native)
        assert options("predict", 3, amp=True).precision == precision


def test_all_impossible_options_are_listed() -> None:
    with pytest.raises(InputError) as error:
        run_benchmark(options("fly", 3, patch_size=(16, 16), batch_size=0))
    assert all(word in str(error.value) for word in ("--mode fly", "--patch_size", "--batch_size 0"))


def test_published_figures_are_shown_for_their_own_configuration_only() -> None:
    assert {f["device"] for f in published_figures(BenchmarkOptions("train"))} == {"A100 80G", "V100 16G"}
    assert published_figures(BenchmarkOptions("train", batch_size=3)) == []
    assert BenchmarkOptions("train").is_published
    assert not BenchmarkOptions("train", base_features=16).is_published


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
    command.plot(str(results), str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_file_with_other_columns_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("a,b\n1,2\n")
    row = benchmark_row("x", Timing((0.1,), 1, 0), {})
    with pytest.raises(InputError, match="other columns"):
        append_benchmark(path, row)
    assert path.read_text() == "a,b\n1,2\n"
    with pytest.raises(InputError, match="not found"):
        draw_benchmarks(tmp_path / "none.csv", tmp_path / "x.png")


def test_published_table_is_complete() -> None:
    with nnunet_figures().open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 39  # 19 of training (one of 20 ran out of memory), 20 of prediction
    assert all(float(r["throughput"]) > 0 for r in rows)


def nnunet_figures() -> Path:
    from monai_ext.benchmark.benchmark_results import PUBLISHED

    return PUBLISHED
