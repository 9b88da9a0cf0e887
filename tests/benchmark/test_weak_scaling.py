"""Weak scaling: what a step sends is counted exactly, and what the command prints and records."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed

from monai_ext.benchmark.commands import BenchmarkCommands
from monai_ext.benchmark.scaled_step import ScaledStep, StepSize
from monai_ext.benchmark.step_messages import StepMessages, count_messages
from monai_ext.benchmark.weak_scaling import COLUMNS, run_as_rank, run_weak_scaling
from monai_ext.engines.data_parallel import data_parallel
from monai_ext.errors import InputError
from rank_processes import on_ranks

CPU = torch.device("cpu")
SIZES = {
    "nnunet": StepSize("nnunet", (16, 16, 16), 1, 4),
    "unet_em": StepSize("unet_em", (188, 188), 1, 2),
}


@pytest.fixture
def group_of_one() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def wrapped(size: StepSize, **settings: object) -> ScaledStep:
    return ScaledStep(size, CPU, functools.partial(data_parallel, device=CPU, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(("bundle", "bucket_mb", "fewest", "most"), [("nnunet", 25, 1, 1), ("unet_em", 0.02, 3, 20)])
@pytest.mark.usefixtures("group_of_one")
def test_every_gradient_is_sent_once(bundle: str, bucket_mb: float, fewest: int, most: int) -> None:
    step = wrapped(SIZES[bundle], bucket_mb=bucket_mb)
    counts = count_messages(step)
    parameters = sum(p.numel() * p.element_size() for p in step.network.parameters())
    assert counts.gradient_bytes == parameters
    assert fewest <= len(counts.buckets) <= most
    assert list(counts.ready) == sorted(counts.ready)
    assert 0 < counts.ready[0] <= counts.ready[-1] <= 1
    assert min(counts.forward, counts.backward, counts.update) > 0
    assert counts.others == 0
    row = {name: str(value) for name, value in counts.columns().items()}
    again = StepMessages.from_columns(row)
    assert again.buckets == counts.buckets
    assert again.seconds == pytest.approx(counts.seconds, rel=1e-3)  # four digits are written
    del row["ready"]
    with pytest.raises(ValueError, match="ready"):
        StepMessages.from_columns(row)


def test_counting_needs_ddp() -> None:
    with pytest.raises(TypeError, match="DDP"):
        count_messages(ScaledStep(SIZES["nnunet"], CPU))


def test_two_ranks_give_rows_of_all_sides(tmp_path: Path) -> None:
    results = tmp_path / "scaling.csv"
    settings = ("chosen", "dynamic_graph")
    first, second = on_ranks(run_as_rank, 2, SIZES["nnunet"], 2, 1, settings, str(results))
    assert isinstance(first, list), first
    assert [row["side"] for row in first] == ["alone", "apart", *settings]
    assert [row["ranks"] for row in first] == [1, 2, 2, 2]
    assert [row["median_ms"] for row in first] == [row["median_ms"] for row in second]
    assert first[0]["efficiency"] == "1.000"
    chosen = first[2]
    assert float(chosen["least_efficiency"]) <= float(chosen["efficiency"]) <= float(chosen["most_efficiency"])
    assert chosen["other_messages"] == 1  # sums of batch Dice, of all outputs in one message
    assert chosen["messages"] == 1 + len(chosen["buckets"].split())
    assert chosen["threads"] == 1
    with results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 4


def test_one_rank_counts_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run_as_rank(SIZES["unet_em"], 1, 1)
    assert [row["side"] for row in rows] == ["alone", "chosen"]
    assert not distributed.is_initialized()
    assert "MiB of gradients" in capsys.readouterr().out


def test_impossible_options_are_listed_at_once() -> None:
    with pytest.raises(InputError, match=r"--rounds 0(.|\n)*--settings(.|\n)*--device tpu"):
        run_weak_scaling(SIZES["nnunet"], rounds=0, settings=("fast",), device="tpu")
    with pytest.raises(InputError, match=r"--patch_size(.|\n)*--batch_size -1"):
        run_weak_scaling(StepSize("unet_em", (573, 572), -1))
    with pytest.raises(InputError, match="unknown"):
        BenchmarkCommands().scaling("unet")


@pytest.mark.long
def test_the_command_starts_its_ranks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "scaling.csv"
    BenchmarkCommands().scaling("nnunet", 2, 1, 1, (16, 16, 16), 1, 4, results=str(results))
    assert "apart" in capfd.readouterr().out
    BenchmarkCommands().scaling_model(str(results), "nnunet", step_ms=100)
    last = capfd.readouterr().out.splitlines()[-1].split()
    assert last[:2] == ["1024", "128"]
    assert 0.5 < float(last[-1]) < 1
