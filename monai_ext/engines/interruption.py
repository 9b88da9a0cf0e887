"""Ctrl-C and SIGTERM end training after the step in hand, with everything saved."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from ignite.engine import Engine, Events

from monai_ext.engines import process_group
from monai_ext.engines.workflow import from_command_line

# Ctrl-C reaches every process of a terminal, and torchrun, which got it too, passes it on to them once more.
ECHO_SECONDS = 5.0


class Interruption:
    """Turns SIGINT and SIGTERM into a clean stop: finish the step, let the checkpoint handler save, leave the loop.

    A second signal of the same kind acts at once. `finish` passes the signal on, so that the process ends with the
    status that the shell or the job scheduler expects; in a notebook it raises `KeyboardInterrupt` instead.

    Of several processes all stop after the same step, whichever of them got the signal.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.stopped = False
        self._previous: dict[int, Any] = {}
        self._noted: int | None = None
        self._noted_at = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda _: self._listen())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop_if_asked)
        engine.add_event_handler(Events.COMPLETED, lambda _: self.restore())
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._raise)

    @property
    def unfinished(self) -> bool:
        """Whether training was stopped before its end, by a signal or on request."""
        return self.stopped or self.received is not None

    def stop(self) -> None:
        """Note that training stops here to be gone on with later; no signal is passed on."""
        self.stopped = True

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set signal handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        alone = process_group.world_size() == 1
        if self._noted == number:
            if not alone and time.monotonic() - self._noted_at < ECHO_SECONDS:
                return
            self.restore()
            os.kill(os.getpid(), number)
        self._noted, self._noted_at = number, time.monotonic()
        if alone:
            self.received = number
        if not process_group.is_first():
            return
        print(f"\n{signal.Signals(number).name}: finishing the step in hand and saving (again to stop at once)")

    def _stop_if_asked(self, engine: Any) -> None:
        if process_group.world_size() > 1:
            self.received = int(process_group.largest(self._noted or 0)) or None
        if self.received is not None:
            engine.terminate()

    def _raise(self, error: BaseException) -> None:
        self.restore()
        raise error

    def restore(self) -> None:
        """Put back the signal handlers that were there before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def finish(self) -> None:
        """Pass on a received signal; does nothing if none came."""
        if self.received is None:
            return
        if not from_command_line():
            raise KeyboardInterrupt
        signal.signal(self.received, signal.SIG_DFL)
        os.kill(os.getpid(), self.received)


def ignore_interrupts(worker: int) -> None:
    """`worker_init_fn` of loaders: Ctrl-C reaches the whole process group, but only the main process may act on it."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
