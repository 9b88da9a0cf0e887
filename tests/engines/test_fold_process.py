"""A process in the hands of another: output, status, signals, locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forked_child import in_child, mount_small_disk
from monai_ext.engines.fold_process import (
    Stop,
    bundle_command,
    error_message,
    process_environment,
    run_process,
)
from monai_ext.errors import InputError
from monai_ext.file_lock import FileLock, LockedError


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def run(code: str, log: Path, stop: Stop | None = None, **options: object) -> int:
    return run_process(python(code), log, stop or Stop(), os.environ, **options)  # type: ignore[arg-type]


def test_output_is_shown_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; print('größe', flush=True); print('hm', file=sys.stderr); sys.exit(3)"
    assert run(code, tmp_path / "log") == 3
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("größe\n", "hm\n")
    kept = (tmp_path / "log").read_text(encoding="utf-8")
    assert "größe" in kept  # two streams may meet in the middle of a line
    assert "hm" in kept
    assert run("print('more')", tmp_path / "log", show=False) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "log").read_text(encoding="utf-8").endswith("more\n")


def test_large_output_does_not_block(tmp_path: Path) -> None:
    assert run("import sys; sys.stderr.write('x' * 1000000); sys.stdout.write('y' * 1000000)", tmp_path / "log") == 0
    assert (tmp_path / "log").stat().st_size == 2000000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nerror: first\nerror: no such fold\n  - more\n", "no such fold\n  - more"),
        ("bar 10%\rbar 20%\nTraceback\nKeyError: 'x'\n", "KeyError: 'x'"),
        ("Traceback\nmodule.FoundError: x\nThe above\nTraceback\nRuntimeError: y\n set mode\n", "module.FoundError: x"),
        ("last words", "last words"),
        ("error: only", "only"),
        ("", "it left no message"),
    ],
)
def test_message_of_a_failure(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "log").write_text("old\nerror: old\n" + text)
    assert error_message(tmp_path / "log", since=len("old\nerror: old\n")) == message
    assert error_message(tmp_path / "none") == "it left no message"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_process_once(tmp_path: Path, number: signal.Signals) -> None:
    child = (
        "import signal, sys, time\n"
        "seen = []\n"
        "for n in (signal.SIGINT, signal.SIGTERM): signal.signal(n, lambda n, f: seen.append(n))\n"
        "print('ready', flush=True)\n"
        "end = time.monotonic() + 60\n"
        "while not seen and time.monotonic() < end: time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        "print(len(seen), int(seen[0]), flush=True)\n"
    )
    parent = (
        "import os, sys\nfrom pathlib import Path\n"
        "from monai_ext.engines.fold_process import Stop, run_process\n"
        f"with Stop() as stop: status = run_process([sys.executable, '-c', {child!r}], Path('log'), stop, os.environ)\n"
        "print('status', status, 'received', int(stop.received), flush=True)\n"
    )
    process = subprocess.Popen(python(parent), cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, number)  # as a terminal does
    out, _ = process.communicate(timeout=60)
    assert out.splitlines() == [f"1 {int(number)}", f"status 0 received {int(number)}"]


def test_a_lock_lives_as_long_as_the_process_that_inherited_it(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock", "fold 0")
    with lock.holding():
        assert lock.descriptor is not None
        child = subprocess.Popen(python("import time; time.sleep(60)"), pass_fds=(lock.descriptor,))
    try:
        with pytest.raises(LockedError, match="fold 0 is in use by another process"):
            FileLock(tmp_path / "lock", "fold 0").acquire()
    finally:
        child.kill()
        child.wait()
    begun = time.monotonic()
    with FileLock(tmp_path / "lock", "fold 0").holding(30):
        assert time.monotonic() - begun < 20


def test_waiting_for_a_lock_can_be_ended(tmp_path: Path) -> None:
    def tick() -> None:
        raise InputError("stopped")

    with FileLock(tmp_path / "lock", "a").holding(), pytest.raises(InputError, match="stopped"):
        FileLock(tmp_path / "lock", "a").acquire(60, tick)


def test_environment_has_no_rank_and_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "TORCHELASTIC_RUN_ID", "ROLE_RANK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    found = process_environment(local_rank=3, world=4, gpus=["5", "7"])
    assert found["CUDA_VISIBLE_DEVICES"] == "7"
    assert found["OMP_NUM_THREADS"] == "2"
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "TORCHELASTIC_RUN_ID", "ROLE_RANK"} & set(found)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "CUDA_VISIBLE_DEVICES" not in process_environment(0, 1, ["5"])


def test_command_keeps_the_warning_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "warnoptions", ["ignore"])
    line = bundle_command(Path("a.json"))
    assert line == [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--args_file", "a.json"]


def test_a_full_disk_of_the_log_does_not_stop_the_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    child = "print('x' * 300_000); print('all', 'said')"  # more than a pipe holds

    def body() -> None:
        mount_small_disk(disk, "16k")
        with Stop() as stop:
            status = run_process(python(child), disk / "log", stop, os.environ, show=False)
        assert status == 0
        assert (disk / "log").stat().st_size == 2**14
        assert caplog.text.count("what is printed is not kept any more (No space left on device)") == 1

    assert in_child(body, tmp_path / "report") == 0
