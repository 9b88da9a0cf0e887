"""A folder that is removed while a run writes into it is not made again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_ext import expected_folders
from monai_ext.atomic_files import append_text, make_folder, write_cache, write_text
from monai_ext.expected_folders import FolderGoneError, check_folder, expect_folder, forget_folder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "run"
    made.mkdir()
    expect_folder(made)
    yield made
    forget_folder(made)


@pytest.mark.parametrize("way", ["removed", "moved", "replaced", "a file"])
def test_nothing_is_written_into_a_folder_that_is_gone(folder: Path, way: str) -> None:
    write_text(folder / "a" / "first.txt", "1")
    os.rename(folder, folder.with_name("away"))
    if way == "removed":
        shutil.rmtree(folder.with_name("away"))
    if way == "replaced":
        folder.mkdir()
    if way == "a file":
        folder.write_text("")
    for write in (write_text, append_text, write_cache):
        with pytest.raises(FolderGoneError, match=r"run: the folder of this run was removed, moved or replaced.*Cure"):
            write(folder / "a" / "second.txt", "2")
    with pytest.raises(FolderGoneError):
        make_folder(folder / "b")
    assert not folder.is_dir() or not list(folder.iterdir())
    write_text(folder.with_name("run2") / "a.txt", "other folders are not meant")
    forget_folder(folder)
    if way != "a file":
        write_text(folder / "a.txt", "3")


def test_a_folder_that_is_there_is_written_whatever_its_name_is_given_as(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    link = folder.with_name("link")
    link.symlink_to(folder)
    for name in (Path("run"), folder / ".." / "run", link):
        write_text(name / "a.txt", "1")
    shutil.rmtree(folder)
    with pytest.raises(FolderGoneError):
        check_folder(Path("run"))
    with pytest.raises(FolderGoneError):
        check_folder(link)


def test_a_folder_expected_anew_is_the_present_one(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    expect_folder(folder)
    check_folder(folder / "a")
    forget_folder(folder)
    assert folder.resolve() not in expected_folders._expected
