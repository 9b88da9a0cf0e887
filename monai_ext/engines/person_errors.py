"""On the command line a person's mistake, a failure of the system or Ctrl-C prints one message, no traceback.

Of several processes one prints it.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

from monai_ext.engines import process_group
from monai_ext.engines.stop_signals import Stopped, end_by
from monai_ext.engines.system_errors import explain
from monai_ext.engines.workflow import from_command_line
from monai_ext.errors import InputError

logger = logging.getLogger(__name__)
E = TypeVar("E", bound=BaseException)


def find_input_error(error: BaseException | None) -> InputError | None:
    """The `InputError` behind an exception that MONAI or Ignite wrapped, None if there is none."""
    return _find(error, InputError)


def _find(error: BaseException | None, kind: type[E]) -> E | None:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, kind):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _close_bars() -> None:
    """End the line of a progress bar, which a message would go on with."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def print_input_errors_only() -> None:
    """Install an exception hook for the command line; in notebooks and scripts exceptions stay as they are."""
    if not from_command_line() or getattr(sys.excepthook, "prints_input_errors_only", False):
        return
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        stop = _find(error, Stopped)  # what it interrupted may have failed on the way out
        if stop is not None:
            end_by(stop.number)
        mistake = find_input_error(error)
        message = explain(error) if mistake is None else str(mistake)
        if message and not process_group.is_first_to_say(message):
            time.sleep(process_group.LAST_WORDS)
        elif message:
            _close_bars()
            print(f"error: {message}", file=sys.stderr)
        elif isinstance(error, KeyboardInterrupt):
            print("\nstopped; what was finished is kept", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    hook.prints_input_errors_only = True  # type: ignore[attr-defined]
    sys.excepthook = hook
    logging.raiseExceptions = False  # output that goes to a full disk must not bury the error in tracebacks
    threading.excepthook = _warn_of_thread(threading.excepthook)


def _warn_of_thread(previous: Callable[[threading.ExceptHookArgs], object]) -> Callable[..., None]:
    """Hook for threads, such as TensorBoard's: a failure of the system is a line, not a traceback, and ends no run."""

    def hook(failed: threading.ExceptHookArgs) -> None:
        failure = explain(failed.exc_value) or (str(failed.exc_value) if failed.exc_type is FileNotFoundError else "")
        if failure:
            logger.warning("a background thread ended: %s", failure.split(" Cure: ")[0])
        else:
            previous(failed)

    return hook
