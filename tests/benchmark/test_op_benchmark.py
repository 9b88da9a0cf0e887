"""Times of ops: only of those that are right, and in a file that keeps its columns."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from monai_ext.benchmark import op_benchmark
from monai_ext.benchmark.measurement_rows import append_rows
from monai_ext.benchmark.op_benchmark import COLUMNS, measure_op, run_op_benchmark
from monai_ext.errors import InputError
from monai_ext.ops import instance_norm_act as norm_op
from monai_ext.ops.check import cases_of
from monai_ext.ops.forms import forced

OP = "instance_norm_act"
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler: the op has no form to time"
)


@pytest.fixture
def small_cases(monkeypatch):
    """One small case as if a recipe used it; torch.compile is replaced, since it takes minutes for all ops."""
    case = replace(next(c for c in cases_of(OP) if not c.recipe), recipe="test", traffic=1000)
    monkeypatch.setattr(op_benchmark, "cases_of", lambda op: [case])
    monkeypatch.setattr(op_benchmark, "_compiled", lambda op, case, public, arguments: public)
    monkeypatch.setattr(op_benchmark, "COPY_BYTES", 2**16)
    return [case]


@needs_compiler
def test_forms_are_timed_and_rows_appended(small_cases, tmp_path: Path, capsys):
    path = tmp_path / "ops.csv"
    for _ in range(2):
        run_op_benchmark(OP, "cpu", 2, str(path))
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert {(r["form"], r["pass"]) for r in rows} == {
        (form, kind) for form in ("torch", "c++", "torch.compile") for kind in ("forward", "forward+backward")
    }
    assert len(rows) == 12
    for row in rows:
        assert 0 < float(row["min_ms"]) <= float(row["median_ms"]) <= float(row["max_ms"])
        assert row["form"] != "torch" or float(row["ratio_to_eager"]) == 1
        assert bool(row["gb_per_s"]) == bool(row["share_of_copy_rate"]) == (row["pass"] == "forward+backward")
    assert "c++" in capsys.readouterr().out


@needs_compiler
def test_red_op_gets_no_times(small_cases, monkeypatch, tmp_path: Path, capsys):
    def wrong(*_):
        raise AssertionError("differs by [0.5]")

    monkeypatch.setattr(op_benchmark, "check", wrong)
    report = measure_op(OP, "cpu", 1)
    assert report.rows == []
    assert "RED" in report.remarks[0]
    assert "differs by [0.5]" in report.remarks[0]
    run_op_benchmark(OP, "cpu", 1, str(tmp_path / "ops.csv"))
    assert not (tmp_path / "ops.csv").exists()
    assert "RED" in capsys.readouterr().out


@needs_compiler
def test_failed_compilation_is_a_remark(small_cases, monkeypatch):
    def failing(*_):
        raise RuntimeError("no compiler\nmore")

    monkeypatch.setattr(op_benchmark, "_compiled", failing)
    report = measure_op(OP, "cpu", 1)
    assert report.remarks == [f"{OP}, {small_cases[0].name}: torch.compile of the reference failed: no compiler"]
    assert all(row["ratio_to_compiled"] == "" for row in report.rows)


def test_op_as_one_node_of_a_graph_is_seen(small_cases):
    arguments = small_cases[0].make(torch.Generator().manual_seed(0))
    with forced("torch"):
        assert not op_benchmark._has_own_nodes(norm_op.instance_norm_act, arguments)
    if shutil.which("g++"):
        assert op_benchmark._has_own_nodes(norm_op.instance_norm_act, arguments)


def test_work_in_place_is_seen():
    values = (torch.tensor([1.0, float("nan")]), torch.zeros(2, dtype=torch.bool))
    assert not op_benchmark._changes_arguments(lambda x, y: x + 1, values)
    assert op_benchmark._changes_arguments(lambda x, y: x.add_(1), values)
    assert values[0][0] == 1


def test_impossible_options_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="unknown --op 'conv'"):
        run_op_benchmark("conv")
    with pytest.raises(InputError, match="--rounds 0"):
        run_op_benchmark(OP, rounds=0)
    with pytest.raises(InputError, match="--device nowhere"):
        run_op_benchmark(OP, device="nowhere")


def test_file_with_other_columns_is_refused(tmp_path: Path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="other columns"):
        append_rows(path, [], COLUMNS)
    assert path.read_text() == "a,b\n1,2\n"
