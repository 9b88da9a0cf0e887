"""One message for a person's mistake, a traceback for ours."""

from __future__ import annotations

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


def test_other_errors_are_not_mistakes() -> None:
    assert find_input_error(wrapped(ValueError("bug"), 2)) is None
    assert find_input_error(None) is None
