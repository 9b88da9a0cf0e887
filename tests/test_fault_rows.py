"""Rows of faults: columns, counts that fit, scripts that share the file."""

from __future__ import annotations

from multiprocessing import get_context
from pathlib import Path

import pytest

from fault_rows import COLUMNS, append_fault, read_faults


def test_rows_are_appended_with_what_they_were_measured_on(tmp_path: Path) -> None:
    path = tmp_path / "faults.csv"
    append_fault(path, "SIGKILL", "training, resumed", 30, 29, 1, 7)
    append_fault(path, "disk full", "log", 1, 1, 0, 0)
    rows = read_faults(path)
    assert [tuple(row) for row in rows] == [COLUMNS, COLUMNS]
    assert rows[0]["phase"] == "training, resumed"
    assert [rows[0][name] for name in ("tried", "survived", "lost", "seed")] == ["30", "29", "1", "7"]
    assert all(rows[1][name] for name in ("device", "versions", "commit", "date"))


@pytest.mark.parametrize("counts", [(0, 0, 0), (3, 3, 1), (3, -1, 0)])
def test_counts_that_do_not_fit_are_refused(tmp_path: Path, counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="tried"):
        append_fault(tmp_path / "faults.csv", "SIGKILL", "training", *counts, 0)
    assert not (tmp_path / "faults.csv").exists()


def test_a_file_with_other_columns_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "faults.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="other columns"):
        append_fault(path, "SIGKILL", "training", 1, 1, 0, 0)
    assert path.read_text() == "a,b\n1,2\n"


def test_scripts_that_write_at_the_same_time_lose_no_row(tmp_path: Path) -> None:
    path = tmp_path / "faults.csv"
    processes = [get_context("fork").Process(target=_append_three, args=(path, k)) for k in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sorted((row["fault"], row["seed"]) for row in read_faults(path)) == [
        (f"script {k}", str(seed)) for k in range(3) for seed in range(3)
    ]


def _append_three(path: Path, script: int) -> None:
    for seed in range(3):
        append_fault(path, f"script {script}", "training", 1, 1, 0, seed)
