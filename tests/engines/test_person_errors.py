"""One message for a person's mistake, a traceback for ours."""

from __future__ import annotations

import errno
import io
import sys
import threading
from contextlib import redirect_stderr

import pytest
from tqdm import tqdm

from monai_ext.engines import person_errors, process_group
from monai_ext.engines.person_errors import find_input_error
from monai_ext.errors import InputError
from rank_processes import on_ranks


def wrapped(error: Exception, depth: int) -> Exception:
    """The error as MONAI's config resolver re-raises it."""
    for _ in range(depth):
        try:
            raise RuntimeError("Failed to evaluate") from error
        except RuntimeError as outer:
            error = outer
    return error


def test_mistake_is_found_behind_wrappers() -> None:
    mistake = InputError("a.json: broken")
    assert find_input_error(wrapped(mistake, 3)) is mistake
    assert find_input_error(mistake) is mistake


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (wrapped(InputError("a.json: broken"), 1), "error: a.json: broken\n"),
        (KeyboardInterrupt(), "\nstopped; what was finished is kept\n"),
        (ValueError("bug"), "traceback\n"),
    ],
)
def test_command_line_hides_tracebacks_of_mistakes_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, shown: str
) -> None:
    monkeypatch.setattr(person_errors, "from_command_line", lambda: True)
    monkeypatch.setattr(sys, "excepthook", lambda *_: print("traceback", file=sys.stderr))
    person_errors.print_input_errors_only()
    sys.excepthook(type(error), error, None)
    assert capsys.readouterr().err == shown


def test_scripts_and_notebooks_keep_their_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    own = sys.excepthook
    monkeypatch.setattr(person_errors, "from_command_line", lambda: False)
    person_errors.print_input_errors_only()
    assert sys.excepthook is own


def test_other_errors_are_not_mistakes() -> None:
    assert find_input_error(wrapped(ValueError("bug"), 2)) is None
    assert find_input_error(None) is None


def _said(messages: list[str]) -> str:
    process_group.LAST_WORDS = 0.0
    person_errors.from_command_line = lambda: True
    person_errors.print_input_errors_only()
    error = InputError(messages[process_group.rank()])
    with redirect_stderr(io.StringIO()) as screen:
        sys.excepthook(type(error), error, None)
    process_group.barrier()
    return screen.getvalue()


def test_of_processes_that_find_the_same_mistake_one_says_so() -> None:
    said = on_ranks(_said, 3, ["a", "a", "a"])
    assert sorted(said) == ["", "", "error: a\n"]
    assert sorted(on_ranks(_said, 3, ["a", "b", "a"])) == ["", "error: a\n", "error: b\n"]


def test_a_failure_of_the_system_is_one_line_in_any_thread(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(person_errors, "from_command_line", lambda: True)
    monkeypatch.setattr(sys, "excepthook", lambda *_: print("traceback", file=sys.stderr))
    monkeypatch.setattr(threading, "excepthook", lambda _: print("traceback of a thread", file=sys.stderr))
    person_errors.print_input_errors_only()
    full = OSError(errno.ENOSPC, "No space left on device", "last.pt")
    bar = tqdm(total=2)
    sys.excepthook(RuntimeError, wrapped(full, 2), None)
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: last.pt: cannot be written (No space left")
    assert bar.disable  # its line has ended
    in_thread(full)
    assert "a background thread ended: last.pt: cannot be written" in caplog.text
    assert capsys.readouterr().err == ""
    in_thread(ValueError("bug"))
    assert capsys.readouterr().err == "traceback of a thread\n"


def in_thread(error: Exception) -> None:
    def fail() -> None:
        raise error

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
