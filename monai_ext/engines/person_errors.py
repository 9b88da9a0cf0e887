"""On the command line a person's mistake or Ctrl-C prints one message, without a traceback."""

from __future__ import annotations

import sys
from types import TracebackType

from monai_ext.engines.workflow import from_command_line
from monai_ext.errors import InputError


def find_input_error(error: BaseException | None) -> InputError | None:
    """The `InputError` behind an exception that MONAI or Ignite wrapped, None if there is none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, InputError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def print_input_errors_only() -> None:
    """Install an exception hook for the command line; in notebooks and scripts exceptions stay as they are."""
    if not from_command_line() or getattr(sys.excepthook, "prints_input_errors_only", False):
        return
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        mistake = find_input_error(error)
        if mistake is not None:
            print(f"error: {mistake}", file=sys.stderr)
        elif isinstance(error, KeyboardInterrupt):
            print("\nstopped; what was finished is kept", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    hook.prints_input_errors_only = True  # type: ignore[attr-defined]
    sys.excepthook = hook
