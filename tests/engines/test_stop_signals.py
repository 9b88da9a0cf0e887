"""Signals outside training: how to go on is said, the process ends as the sender expects, and in time."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from forked_child import in_child
from monai_ext.atomic_files import replacing
from monai_ext.engines import person_errors, stop_signals

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")


def as_a_command(body: Callable[[], None], folder: Path) -> tuple[int, str]:
    """Exit status and words of a process that does `body` as a command of a terminal would."""
    words = folder / "words.txt"

    def command() -> None:
        file = os.open(words, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        for module in (person_errors, stop_signals):
            module.from_command_line = lambda: True  # type: ignore[attr-defined]
        person_errors.print_input_errors_only()
        stop_signals.listen()
        try:
            body()
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)

    return in_child(command, folder / "report"), words.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_begun_is_unwound_and_the_signal_passed_on(number: signal.Signals, tmp_path: Path) -> None:
    def body() -> None:
        with replacing(tmp_path / "half.txt") as partial:
            partial.write_text("half")
            os.kill(os.getpid(), number)
            time.sleep(30)

    status, words = as_a_command(body, tmp_path)
    assert status == -number
    assert words == f"\n{number.name}: stopping; {stop_signals.ADVICE}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["words.txt"]


def test_errors_on_the_way_out_do_not_hide_the_signal(tmp_path: Path) -> None:
    def body() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        finally:
            raise RuntimeError("a worker is gone")

    status, words = as_a_command(body, tmp_path)
    assert status == -signal.SIGTERM
    assert "a worker is gone" not in words


def test_a_long_way_out_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_signals, "GRACE_SECONDS", 0.1)

    def body() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        finally:
            time.sleep(30)

    begun = time.monotonic()
    assert as_a_command(body, tmp_path)[0] == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 20


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    def body() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)

    assert as_a_command(body, tmp_path)[0] == -signal.SIGINT


def test_it_is_no_exception_that_a_loop_over_cases_could_swallow() -> None:
    assert not issubclass(stop_signals.Stopped, Exception)


def test_notebooks_keep_their_signals() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    stop_signals.listen()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
