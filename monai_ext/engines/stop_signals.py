"""Ctrl-C and SIGTERM outside training: while a dataset is prepared, a model evaluated, or something predicted."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

from monai_ext.engines import process_group
from monai_ext.engines.workflow import from_command_line

# Between the signal and the end, for what is being unwound; schedulers of preemptible machines give 30 at most.
GRACE_SECONDS = 10.0
ADVICE = (
    "what was finished is kept; go on with the same command (a training: and --resume True, predictions: and "
    "--overwrite True)"
)


class Stopped(BaseException):
    """A signal asked this process to end; not an `Exception`, so that nothing takes it for a failure of a case.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def listen() -> None:
    """From here on SIGINT and SIGTERM print how to go on, raise `Stopped` and end the process, within seconds.

    Files are replaced as a whole, so nothing is lost that was finished. What takes longer than `GRACE_SECONDS` to come
    to an end, such as a worker with a large case, is cut off; a second signal cuts off at once. Training has its own
    way to stop, see `Interruption`. In notebooks and scripts signals stay as they are.
    """
    if not from_command_line() or threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def end_by(number: int) -> None:
    """End this process as if the signal had done it, so that shell and scheduler see what they expect."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # the second one ends at once
    # with os.write: the signal may have come in the middle of a print
    if process_group.is_first():
        os.write(1, f"\n{signal.Signals(number).name}: stopping; {ADVICE}\n".encode())
    cut = threading.Timer(GRACE_SECONDS, os._exit, [128 + number])
    cut.daemon = True
    cut.start()
    raise Stopped(number)
