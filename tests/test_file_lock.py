"""Locks between real processes: refused, waited for, and gone with their holder, however that ends."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from monai_ext import file_lock
from monai_ext.errors import InputError
from monai_ext.file_lock import FileLock, Holder, LockedError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes and needs flock")
ROOT = Path(file_lock.__file__).parents[1]
HOLDING = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let background processes ignore it
from monai_ext.file_lock import FileLock
lock = FileLock(sys.argv[1], "the folder")
lock.acquire()
{then}
print("held", flush=True)
time.sleep(60)
"""


def start(path: Path, then: str = "") -> subprocess.Popen[str]:
    """A process that holds the lock and sleeps."""
    code = HOLDING.format(then=then)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    process.send_signal(number)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_another_process_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    holder = start(tmp_path / "new" / "lock")
    try:
        lock = FileLock(tmp_path / "new" / "lock", "the folder", "another one")
        with pytest.raises(LockedError) as caught:
            lock.acquire()
        assert not lock.held
        text = str(caught.value)
        assert text.startswith(f"the folder is in use by process {holder.pid} on {Holder.this_process().host} (since 2")
        assert text.endswith("Cure: another one")
    finally:
        end(holder)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_lock_of_a_killed_process_is_taken_over(
    tmp_path: Path, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    holder = start(tmp_path / "lock")
    end(holder, number)
    lock = FileLock(tmp_path / "lock", "the folder")
    with caplog.at_level("INFO", logger="monai_ext"):
        lock.acquire()
    assert lock.held
    assert lock.taken_over is not None
    assert lock.taken_over.pid == holder.pid
    assert lock.taken_over.is_dead
    assert f"process {holder.pid}" in caplog.text
    assert "taken over" in caplog.text
    assert lock.holder() == replace(Holder.this_process(), since=lock.holder().since)  # type: ignore[union-attr]
    lock.release()
    again = FileLock(tmp_path / "lock", "the folder")
    again.acquire()
    assert again.taken_over is None  # a release leaves no trace
    again.release()


def test_the_lock_waits_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    holder = start(tmp_path / "lock")
    ticks: list[float] = []

    def tick() -> None:
        ticks.append(time.monotonic())
        if len(ticks) == 2:
            holder.kill()

    lock = FileLock(tmp_path / "lock", "the folder")
    try:
        with caplog.at_level("INFO", logger="monai_ext"):
            lock.acquire(patience=30, tick=tick)
    finally:
        end(holder)
    assert lock.held
    lock.release()
    assert len(ticks) < 20
    assert [f"process {holder.pid}" in r.getMessage() for r in caplog.records].count(True) == 2  # waiting, taken over
    assert "waiting for it" in caplog.records[0].getMessage()


def test_waiting_can_be_ended(tmp_path: Path) -> None:
    holder = start(tmp_path / "lock")

    def tick() -> None:
        raise KeyboardInterrupt

    lock = FileLock(tmp_path / "lock", "the folder")
    try:
        with pytest.raises(KeyboardInterrupt):
            lock.acquire(patience=30, tick=tick)
        assert not lock.held
    finally:
        end(holder)


def test_forked_children_do_not_keep_the_lock_of_a_killed_process(tmp_path: Path) -> None:
    """Workers of a loader live for seconds after a kill of their parent, which is then started again."""
    then = """
import os
out, into = os.pipe()
if os.fork() == 0:
    os.write(into, str(os.getpid()).encode())
    time.sleep(60)
print(os.read(out, 20).decode(), flush=True)
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDING.format(then=then), str(tmp_path / "lock")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # it lives
        with FileLock(tmp_path / "lock", "the folder") as lock:
            assert lock.taken_over is not None
            assert lock.taken_over.pid == holder.pid
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_a_forked_child_cannot_release(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock", "the folder")
    lock.acquire()
    child = os.fork()
    if child == 0:
        lock.release()
        os._exit(3 if lock.held else 0)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(LockedError, match=rf"process {os.getpid()} "):
        FileLock(tmp_path / "lock", "the folder").acquire()
    lock.release()


def test_a_program_that_inherits_the_descriptor_keeps_it(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock", "the folder") as lock:
        assert lock.descriptor is not None
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=(lock.descriptor,))
    try:
        with pytest.raises(LockedError):
            FileLock(tmp_path / "lock", "the folder").acquire()
    finally:
        child.kill()
        child.wait()
    FileLock(tmp_path / "lock", "the folder").acquire(patience=10)


def _count(folder: Path, times: int) -> None:
    for _ in range(times):
        lock = FileLock(folder / "lock", "the number")
        lock.acquire(patience=60)
        number = int((folder / "number").read_text())
        time.sleep(0.001)
        (folder / "number").write_text(str(number + 1))
        lock.release()


def test_several_processes_exclude_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the lock, read and write of 4 processes interleave and numbers are lost."""
    monkeypatch.setattr(file_lock, "POLL_SECONDS", 0.003)
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_count, args=(tmp_path, 25)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "number").read_text() == "100"


def test_a_removed_lock_file_is_not_held_any_more(tmp_path: Path) -> None:
    """The folder was removed and made again: two processes must not both hold what they think is one lock."""
    first = FileLock(tmp_path / "lock", "the folder")
    first.acquire()
    assert first.in_place
    (tmp_path / "lock").unlink()
    assert not first.in_place
    with FileLock(tmp_path / "lock", "the folder") as second:
        assert second.in_place
        first.release()
        with pytest.raises(LockedError):
            FileLock(tmp_path / "lock", "the folder").acquire()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff\xfe", b"x" * 10000, b'{"pid": "a"}'])
def test_damaged_records_do_no_harm(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lock").write_bytes(content)
    with FileLock(tmp_path / "lock", "the folder") as lock:
        assert lock.taken_over is None
        assert json.loads((tmp_path / "lock").read_bytes())["pid"] == os.getpid()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    lock = FileLock(tmp_path / "file" / "lock", "the folder")
    with pytest.raises(InputError, match=r"file/lock: cannot be used to lock the folder.*Cure"):
        lock.acquire()
    assert not lock.held


def test_without_locks_of_the_disk_the_record_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(file_lock.fcntl, "flock", no_locks)
    path = tmp_path / "lock"
    living = start(path)
    try:
        with pytest.raises(LockedError, match=f"process {living.pid}"):
            FileLock(path, "the folder").acquire()
    finally:
        end(living)
    with FileLock(path, "the folder") as lock:
        assert lock.taken_over is not None
        assert lock.taken_over.pid == living.pid
    # the number of a process that ended is used again
    path.write_text(json.dumps(asdict(replace(Holder.this_process(), pid=os.getppid(), birth=1))))
    with FileLock(path, "the folder") as lock:
        assert lock.held
    path.write_text(json.dumps(asdict(replace(Holder.this_process(), host="elsewhere"))))
    with FileLock(path, "the folder") as lock:
        assert lock.held
    assert "on elsewhere" in caplog.text


def test_a_holder_lives_or_not() -> None:
    here = Holder.this_process()
    assert here.is_here
    assert not here.is_dead
    assert replace(here, birth=here.birth + 1).is_dead
    assert not replace(here, host="elsewhere", pid=2**22 + 1).is_dead
    process = subprocess.Popen(["true"])
    process.wait()
    assert replace(here, pid=process.pid).is_dead


def test_a_file_of_another_person_locks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another person's lock file, which this one may read only, still excludes."""
    path = tmp_path / "lock"
    path.write_bytes(b"")
    real = os.open

    def read_only(name: object, flags: int, *rest: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(name, flags, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", read_only)
    first = FileLock(path, "the folder")
    first.acquire()
    with pytest.raises(LockedError, match="in use by another process"):
        FileLock(path, "the folder").acquire()
    first.release()
    assert not first.held
    with FileLock(path, "the folder"):
        pass


def test_a_lock_file_can_go_with_its_lock(tmp_path: Path) -> None:
    lock, waiting = FileLock(tmp_path / "lock", "a"), FileLock(tmp_path / "lock", "a")
    lock.acquire()
    opened = os.open(tmp_path / "lock", os.O_RDWR)  # as one does who waits
    lock.release(remove=True)
    assert not (tmp_path / "lock").exists()
    waiting.acquire()
    assert not os.path.samestat(os.fstat(opened), os.stat(tmp_path / "lock"))
    os.close(opened)
    waiting.release()
    assert (tmp_path / "lock").exists()
    waiting.release(remove=True)  # not held: another process may hold it
    assert (tmp_path / "lock").exists()
