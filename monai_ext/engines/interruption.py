"""Ctrl-C and SIGTERM end training after the step in hand, with everything saved."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
from ignite.engine import Engine, Events

from monai_ext.engines import process_group
from monai_ext.engines.workflow import from_command_line

# Ctrl-C reaches every process of a terminal, and torchrun, which got it too, passes it on to them once more.
ECHO_SECONDS = 5.0
_LEFT = "a signal ended this validation"


class Interruption:
    """Turns SIGINT and SIGTERM into a clean stop: finish the step, let the checkpoint handler save, leave the loop.

    A second signal of the same kind acts at once. `finish` passes the signal on, so that the process ends with the
    status that the shell or the job scheduler expects; in a notebook it raises `KeyboardInterrupt` instead.

    After the last step of an epoch the epoch is ended first, apart from its validation; see `completes`.

    Of several processes all stop after the same step, whichever of them got the signal.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.stopped = False
        self._previous: dict[int, Any] = {}
        self._noted: int | None = None
        self._noted_at = 0.0
        self._may_leave = self._left = False

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop_if_asked)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._stop_after_epoch)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._raise)

    @property
    def unfinished(self) -> bool:
        """Whether training was stopped before its end, by a signal or on request."""
        return self.stopped or self.received is not None

    def stop(self) -> None:
        """Note that training stops here to be gone on with later; no signal is passed on."""
        self.stopped = True

    def _begin(self, engine: Any) -> None:
        self._listen()
        # behind all others: what they still have to do, a last validation say, can be stopped too
        if not engine.has_event_handler(self._end, Events.COMPLETED):
            engine.add_event_handler(Events.COMPLETED, self._end)

    def _end(self, _: Any) -> None:
        self.restore()

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
        if self.received is not None and engine.state.iteration % (engine.state.epoch_length or 1) != 0:
            engine.terminate()

    def _stop_after_epoch(self, engine: Any) -> None:
        if self.received is not None:
            engine.terminate()

    def completes(self, evaluator: Any, network: torch.nn.Module, epoch: int) -> bool:
        """Run an evaluator during training; False if a signal ended it before the network's next call.

        Of several processes all say the same. What the evaluator measured does not count then.

        Args:
            evaluator: MONAI's; each process runs through its own cases.
            network: that it calls.
            epoch: for the evaluator.
        """
        self._may_leave, self._left = True, False

        def agree() -> None:
            """Once in every process: after its last case, or where it leaves."""
            self._may_leave = False
            if process_group.world_size() > 1:
                self.received = int(process_group.largest(self._noted or 0)) or None
                self._left = self.received is not None

        def agree_at_the_end(engine: Any) -> None:
            if self._may_leave and engine.state.iteration >= engine.state.epoch_length:
                agree()
                if self._left:
                    # others left in the middle, where nothing of the end is done either
                    engine.terminate(skip_completed=True)

        with evaluator.add_event_handler(Events.ITERATION_COMPLETED, agree_at_the_end):
            hook = network.register_forward_pre_hook(self._leave)
            evaluator.logger.addFilter(_says_nothing_of_leaving)
            try:
                evaluator.run(epoch)
            except _Left:
                agree()
            finally:
                hook.remove()
                evaluator.logger.removeFilter(_says_nothing_of_leaving)
                self._may_leave = False
        return not self._left

    def _leave(self, *_: Any) -> None:
        if self._may_leave and self._noted is not None:
            self._left = True
            raise _Left(_LEFT)

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


class _Left(BaseException):
    """A validation ends here; not an `Exception`, so that nothing takes it for a failure of a case."""


def _says_nothing_of_leaving(record: logging.LogRecord) -> bool:
    return _LEFT not in record.getMessage()  # Ignite takes it for a failure


def ignore_interrupts(worker: int) -> None:
    """`worker_init_fn` of loaders: Ctrl-C reaches the whole process group, but only the main process may act on it."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
