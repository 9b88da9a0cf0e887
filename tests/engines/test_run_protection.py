"""One training a folder: another process is refused, a killed one is followed, this one may begin again."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_ext.atomic_files import write_text
from monai_ext.engines import run_protection
from monai_ext.engines.run_protection import LOCK_FILE, hold_folder, hold_while_running, release_folder
from monai_ext.expected_folders import FolderGoneError
from monai_ext.file_lock import LockedError

ROOT = Path(run_protection.__file__).parents[2]
HOLDING = """
import sys, time
from pathlib import Path
from monai_ext.engines import run_protection
run_protection.LOCK_PATIENCE = 0
run_protection.hold_folder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
run_protection.release_folder(Path(sys.argv[1]))
print("released", flush=True)
time.sleep(60)
"""


def start(folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def held(process: subprocess.Popen[str]) -> bool:
    assert process.stdout is not None
    return process.stdout.readline() == "held\n"


def end(process: subprocess.Popen[str]) -> str:
    process.kill()
    return process.communicate()[1]


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(run_protection, "LOCK_PATIENCE", 0.0)
    monkeypatch.delenv("RANK", raising=False)
    yield
    for folder in list(run_protection._held):
        release_folder(folder)


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    first = start(tmp_path)
    try:
        assert held(first)
        with pytest.raises(LockedError, match=rf"in use by process {first.pid} .*Cure: another --output_dir.*--resume"):
            hold_folder(tmp_path)
        second = start(tmp_path)
        assert not held(second)
        assert f"in use by process {first.pid}" in end(second)
    finally:
        first.send_signal(signal.SIGKILL)
        end(first)
    hold_folder(tmp_path)  # at once: nothing to clean up by hand
    third = start(tmp_path)
    assert not held(third)
    assert f"in use by process {os.getpid()}" in end(third)


def test_a_released_folder_is_free_while_the_process_lives(tmp_path: Path) -> None:
    first = start(tmp_path)
    try:
        assert held(first)
        assert first.stdin is not None
        assert first.stdout is not None
        print(file=first.stdin, flush=True)
        assert first.stdout.readline() == "released\n"
        hold_folder(tmp_path)
    finally:
        end(first)


def test_the_same_process_may_begin_again(tmp_path: Path) -> None:
    hold_folder(tmp_path)
    hold_folder(tmp_path / "." / "x" / "..")
    release_folder(tmp_path)
    release_folder(tmp_path)
    other = start(tmp_path)
    try:
        assert held(other)
    finally:
        end(other)


def test_other_folders_are_free(tmp_path: Path) -> None:
    hold_folder(tmp_path / "0")
    other = start(tmp_path / "1")
    try:
        assert held(other)
    finally:
        end(other)


def test_the_first_rank_holds_for_all(tmp_path: Path) -> None:
    first = start(tmp_path, RANK="0", WORLD_SIZE="2")
    second = start(tmp_path, RANK="1", WORLD_SIZE="2")
    try:
        assert held(first)
        assert held(second)
        with pytest.raises(LockedError, match=f"process {first.pid}"):
            hold_folder(tmp_path)
    finally:
        end(first)
        end(second)


def test_a_run_that_is_ending_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = start(tmp_path)
    assert held(first)
    assert first.stdin is not None
    monkeypatch.setattr(run_protection, "LOCK_PATIENCE", 30.0)
    begun = time.monotonic()
    monkeypatch.setattr(run_protection.FileLock, "holder", lambda self: print(file=first.stdin, flush=True))
    try:
        hold_folder(tmp_path)  # its first look, which finds the lock held, lets the other release it
    finally:
        monkeypatch.undo()
        end(first)
    assert time.monotonic() - begun < 20
    assert (tmp_path / LOCK_FILE).is_file()


def test_a_folder_removed_and_made_again_is_held_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    hold_folder(folder)
    (folder / LOCK_FILE).unlink()
    folder.rmdir()
    hold_folder(folder)
    other = start(folder)
    assert not held(other)
    assert f"in use by process {os.getpid()}" in end(other)


class Run:
    """Stands for a workflow, which a notebook keeps in a variable."""


def test_a_folder_is_held_as_long_as_its_last_run_is_there(tmp_path: Path) -> None:
    first, second = Run(), Run()
    hold_while_running(tmp_path, first)
    hold_while_running(tmp_path, second)
    del first
    gc.collect()
    assert tmp_path.resolve() in run_protection._held
    assert (tmp_path / LOCK_FILE).exists()
    del second
    gc.collect()
    assert tmp_path.resolve() not in run_protection._held
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_held_is_not_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    hold_folder(folder)
    shutil.rmtree(folder)
    with pytest.raises(FolderGoneError, match="run: the folder of this run was removed"):
        write_text(folder / "evaluation" / "metrics.json", "{}")
    assert not folder.exists()
    release_folder(folder)
    write_text(folder / "metrics.json", "{}")


def test_other_ranks_do_not_make_a_folder_again_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    folder = tmp_path / "run"
    folder.mkdir()
    hold_folder(folder)
    assert not (folder / LOCK_FILE).exists()
    folder.rmdir()
    with pytest.raises(FolderGoneError):
        write_text(folder / "a.txt", "")
    release_folder(folder)
