"""Which processes see the same folder: all of a machine or a shared disk, or those of each machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from monai_ext.engines import process_group
from monai_ext.engines.folder_ranks import FolderRanks, ranks_of_folder, require_common_folder
from rank_processes import on_ranks


def test_alone_there_is_one(tmp_path: Path) -> None:
    ranks = ranks_of_folder(tmp_path / "new")
    assert ranks == FolderRanks((0,), 0)
    assert ranks.is_first
    assert ranks.share("abc") == ["a", "b", "c"]
    assert ranks.of_first(lambda: 7) == 7
    require_common_folder(tmp_path / "other", "output_dir")
    assert list(tmp_path.iterdir()) == []


def _of_place(place: Path, machines: tuple[str, ...], log: Path) -> tuple[Any, ...]:
    """`machines`: where the folder of this name really is, for every rank."""
    ranks = ranks_of_folder(place / machines[process_group.rank()])

    def work() -> str:
        with log.open("a") as file:
            file.write(str(process_group.rank()))
        return f"of {process_group.rank()}"

    ranks.first_alone(work)
    return ranks.ranks, ranks.is_first, ranks.share(range(5)), ranks.of_first(work)


def test_one_disk(tmp_path: Path) -> None:
    seen = on_ranks(_of_place, 3, tmp_path, ("disk",) * 3, tmp_path / "log")
    assert [one[0] for one in seen] == [(0, 1, 2)] * 3
    assert [one[1] for one in seen] == [True, False, False]
    assert [one[2] for one in seen] == [[0, 3], [1, 4], [2]]
    assert [one[3] for one in seen] == ["of 0"] * 3
    assert (tmp_path / "log").read_text() == "00"
    assert list((tmp_path / "disk").iterdir()) == []  # no file is left that said who sees what


def test_machines_with_disks_of_their_own(tmp_path: Path) -> None:
    seen = on_ranks(_of_place, 3, tmp_path, ("a", "b", "a"), tmp_path / "log")
    assert [one[0] for one in seen] == [(0, 2), (1,), (0, 2)]
    assert [one[1] for one in seen] == [True, True, False]
    assert [one[2] for one in seen] == [[0, 2, 4], [0, 1, 2, 3, 4], [1, 3]]
    assert [one[3] for one in seen] == ["of 0", "of 1", "of 0"]
    assert sorted((tmp_path / "log").read_text()) == ["0", "0", "1", "1"]


def _of_read_only_disk(place: Path) -> tuple[int, ...]:
    def refused(self: Path) -> None:
        raise PermissionError(30, "Read-only file system")

    os.environ["GROUP_RANK"] = str(process_group.rank() // 2)  # two processes a machine
    Path.touch = refused  # type: ignore[assignment, method-assign]
    return ranks_of_folder(place).ranks


def test_where_nothing_can_be_written_machines_count(tmp_path: Path) -> None:
    assert on_ranks(_of_read_only_disk, 3, tmp_path) == [(0, 1), (0, 1), (2,)]


def _require(place: Path, machines: tuple[str, ...]) -> None:
    process_group.LAST_WORDS = 0.0
    require_common_folder(place / machines[process_group.rank()], "output_dir")


def test_results_need_a_common_folder(tmp_path: Path) -> None:
    assert on_ranks(_require, 2, tmp_path, ("a", "a")) == [None, None]
    first, second = on_ranks(_require, 2, tmp_path, ("a", "b"))
    assert "--output_dir" in first
    assert "ranks 0 of 2 see another folder" in first
    assert "Cure: a folder on a disk that all machines share" in first
    assert second == "SystemExit(1)"


def _in_a_file(place: Path) -> None:
    process_group.LAST_WORDS = 0.0
    ranks_of_folder(place)


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    first, second = on_ranks(_in_a_file, 2, tmp_path / "file" / "store")
    assert "cannot be made" in first
    assert second == "SystemExit(1)"
