"""One message for a person's mistake, a traceback for ours."""

from __future__ import annotations

import sys

import pytest

from monai_ext.engines import person_errors
from monai_ext.engines.person_errors import find_input_error
from monai_ext.errors import InputError


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
