"""Comparison with peers, at tiny sizes: every piece of work runs on every side that is installed."""

from __future__ import annotations

import csv
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from monai_ext.benchmark import peer_benchmark
from monai_ext.benchmark.comparison_plot import draw_comparison
from monai_ext.benchmark.interleaved import Interleaved, Task
from monai_ext.benchmark.measurement_rows import append_rows, read_rows
from monai_ext.benchmark.peer_benchmark import COLUMNS, measure_row, run_peer_benchmark, select_rows
from monai_ext.benchmark.peers import sliding_window
from monai_ext.benchmark.peers.rows import ROWS, PeerRow
from monai_ext.benchmark.peers.work import NNUNET, OURS, Work
from monai_ext.errors import InputError

HAS_NNUNET = find_spec("nnunetv2") is not None


@pytest.fixture(autouse=True)
def _no_compiler_of_graphs(monkeypatch):
    """torch.compile takes a minute; that it may fail is part of the work."""

    def failing(*_, **__):
        raise RuntimeError("not here")

    monkeypatch.setattr(torch, "compile", failing)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_side_runs(row: PeerRow):
    if row.work == "preparation" and HAS_NNUNET:
        pytest.skip("starts many processes; `benchmark peers --tiny` runs it")
    work = row.build(**row.tiny, **({"num_workers": 1} if row.work == "preparation" else {}))
    assert OURS in work.tasks
    assert set(work.tasks) | set(work.missing) >= {OURS, *row.targets}  # timm is beside us without a target
    for task in work.tasks.values():
        task.run(*(task.prepare() if task.prepare else ()))
    if work.notes is not None and len(work.tasks) > 1:
        for note in work.notes().values():
            assert "agree" in note or "difference" in note


def test_sides_have_the_same_results():
    """A comparison of times says something only where results agree."""
    work = sliding_window.make(classes=3, edge=24, window=16)
    ours, peer = (work.tasks[side].run() for side in (OURS, sliding_window.MONAI))
    torch.testing.assert_close(ours, peer, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(HAS_NNUNET, reason="the peer is installed")
def test_missing_peer_is_reported_with_its_cure(tmp_path: Path, capsys):
    path = tmp_path / "peers.csv"
    rows = run_peer_benchmark(("augmentation_64",), 1, str(path), tiny=True)
    assert [row["side"] for row in rows] == [OURS, "MONAI"]
    printed = capsys.readouterr().out
    assert "pip install --no-deps nnunetv2==2.8.1" in printed
    with path.open() as file:
        assert [tuple(row) for row in csv.DictReader(file)] == [COLUMNS] * 2


def _row(**changes) -> PeerRow:
    return PeerRow("sliding_window_3", "sliding_window", {}, {}, {"slow": 2.0}, **changes)


def test_row_compares_with_the_target(monkeypatch):
    tasks = {OURS: Task(lambda: None), "slow": Task(lambda: None)}
    work = Work(
        tasks=tasks, notes=lambda: {"slow": "labels agree"}, missing={"third": "not installed"}, always="2 of 3"
    )
    monkeypatch.setattr(PeerRow, "build", lambda self, **_: work)
    seconds = {OURS: (1.0, 2.0, 3.0), "slow": (3.0, 3.0, 9.0)}
    monkeypatch.setattr(peer_benchmark, "time_interleaved", lambda *_, **__: Interleaved(seconds))
    (ours, slow), remarks = measure_row(_row(), 3, {})
    assert (ours["ratio"], ours["reached"], ours["median_ms"], ours["note"]) == ("", "", "2000", "2 of 3")
    assert (slow["ratio"], slow["target_ratio"], slow["reached"]) == ("3", 2.0, "yes")
    assert slow["note"] == "2 of 3; labels agree"
    assert remarks == ["sliding_window_3: no third: not installed"]


def test_peer_without_a_target_has_a_ratio_only(monkeypatch, tmp_path: Path):
    tasks = {OURS: Task(lambda: None), "beside": Task(lambda: None)}
    monkeypatch.setattr(PeerRow, "build", lambda self, **_: Work(tasks=tasks))
    monkeypatch.setattr(peer_benchmark, "time_interleaved", lambda *_, **__: Interleaved({OURS: (1,), "beside": (2,)}))
    lines, _ = measure_row(_row(), 1, {})
    assert (lines[1]["ratio"], lines[1]["target_ratio"], lines[1]["reached"]) == ("2", "", "")
    append_rows(tmp_path / "peers.csv", lines, COLUMNS)
    assert peer_benchmark.median_ratios(read_rows(tmp_path / "peers.csv", COLUMNS)) == {}


def test_slow_peer_is_called_once_in_the_process_that_measures_memory(monkeypatch):
    tasks = {OURS: Task(lambda: None), "slow": Task(lambda: pytest.fail("called here"))}
    monkeypatch.setattr(PeerRow, "build", lambda self, **_: Work(tasks=tasks))
    monkeypatch.setattr(peer_benchmark, "measure_in_process", lambda make, side, *_: (50.0, 100.0))
    (ours, slow), _ = measure_row(_row(once=("slow",), with_memory=True), 3, {})
    assert (slow["n"], slow["median_ms"], slow["peak_mib"], slow["note"]) == (1, "100000", "50", "1 round")
    assert (ours["n"], ours["peak_mib"]) == (3, "50")


def test_peer_of_another_version_is_missing_but_ours_must_be_there():
    work = Work()

    def broken() -> Task:
        raise TypeError("no such argument")

    work.add(NNUNET, broken)
    assert "no such argument" in work.missing[NNUNET]
    with pytest.raises(TypeError):
        work.add(OURS, broken)


def test_rows_are_chosen_by_name_or_kind():
    assert [row.name for row in select_rows(("export",))] == ["export"]
    assert len(select_rows(("resampling",))) == 4
    assert select_rows(()) == list(ROWS)
    with pytest.raises(InputError, match="unknown --work conv"):
        select_rows(("conv",))


def test_impossible_options_are_refused():
    with pytest.raises(InputError, match="--rounds 0"):
        run_peer_benchmark(rounds=0)
    with pytest.raises(InputError, match="--device nowhere"):
        run_peer_benchmark(device="nowhere")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "peers.csv"
    row = dict.fromkeys(COLUMNS, "")
    peers = [("export", "9.1", "5.0"), ("prepare", "0.5", "1.0"), ("export", "8.9", "5.0")]
    rows = [{**row, "work": w, "side": NNUNET, "ratio": r, "target_ratio": t} for w, r, t in peers]
    append_rows(path, [{**row, "work": "export", "side": OURS}, *rows], COLUMNS)
    return path


def test_comparison_is_drawn(results: Path, tmp_path: Path):
    pytest.importorskip("matplotlib", reason="pictures need the extra `plots`")
    draw_comparison(results, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


def test_repeated_runs_are_drawn_by_their_median(results: Path):
    ratios = peer_benchmark.median_ratios(read_rows(results, COLUMNS))
    assert ratios == {("export", NNUNET): (9.0, 5.0), ("prepare", NNUNET): (0.5, 1.0)}


def test_file_without_a_peer_is_not_drawn(tmp_path: Path):
    append_rows(tmp_path / "peers.csv", [dict.fromkeys(COLUMNS, "")], COLUMNS)
    with pytest.raises(InputError, match="compares nothing"):
        draw_comparison(tmp_path / "peers.csv", tmp_path / "peers.png")


def test_picture_needs_matplotlib(results: Path, tmp_path: Path, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        draw_comparison(results, tmp_path / "peers.png")
