"""The part of a cross-validation that joined processes do together: they wait for each other, never for ever."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monai_ext.engines import cross_validation, process_group
from monai_ext.engines.fold_ranks import Rank
from monai_ext.errors import InputError
from rank_processes import on_ranks


def _job(fold: int, mistake: bool) -> Any:
    def read() -> Any:
        if mistake and process_group.rank() == 1:
            raise InputError("this machine cannot read the dataset")
        return SimpleNamespace(fold=fold, missing=lambda: "")

    # every process opens the dataset together with the others, as the bundles' sources are opened
    return process_group.together(read)


def _run(place: Path, failing: str) -> tuple[list[int], list[int]]:
    """Folds of this rank, and those of the report that it wrote."""
    process_group.LAST_WORDS = 0.0
    trained: list[int] = []
    reported: list[int] = []
    values = {"store_dir": str(place / "store"), "overwrite": False}
    config: Any = SimpleNamespace(
        value=values.__getitem__, number_of_folds=lambda: 5, job=lambda fold: _job(fold, failing == "dataset")
    )

    def train(self: Any, jobs: Sequence[Any], chosen: Sequence[int], stop: Any) -> dict[int, str]:
        trained.extend(job.fold for job in jobs)
        return {1: "no memory"} if failing == "fold" and process_group.is_first() else {}

    cross_validation.FoldRuns.train = train  # type: ignore[method-assign]
    rank = Rank(process_group.rank(), process_group.world_size())
    cross_validation._run_folds(
        config, rank, range(5), place, lambda folder, jobs, config: reported.extend(job.fold for job in jobs)
    )
    return trained, reported


@pytest.mark.parametrize("world_size", [2, 3])
def test_each_fold_once_and_one_report(world_size: int, tmp_path: Path) -> None:
    seen = on_ranks(_run, world_size, tmp_path, "")
    assert [trained for trained, _ in seen] == [list(range(rank, 5, world_size)) for rank in range(world_size)]
    assert [reported for _, reported in seen] == [[0, 1, 2, 3, 4]] + [[]] * (world_size - 1)


def test_a_mistake_is_said_once(tmp_path: Path) -> None:
    first, second = on_ranks(_run, 2, tmp_path, "dataset")
    assert first == "SystemExit(1)"
    assert "this machine cannot read the dataset" in second
    first, second = on_ranks(_run, 2, tmp_path, "fold")
    assert "1 of 5 folds failed" in first
    assert "no memory" in first
    assert second == "SystemExit(1)"
