"""A training in several sessions: each does some epochs and stops, the next goes on."""

from __future__ import annotations

import logging
from typing import Any

from ignite.engine import Engine, Events

from monai_ext.engines.interruption import Interruption

logger = logging.getLogger(__name__)


class SessionLimit:
    """Ends a session after some epochs as Ctrl-C would, but with the exit status of success.

    Attach it before the checkpoint handler, so that `last.pt` is written with everything in it.

    Args:
        run_epochs: of one session; 0 does not limit it.
        interruption: told to stop.
    """

    def __init__(self, run_epochs: int, interruption: Interruption) -> None:
        self.run_epochs = run_epochs
        self.interruption = interruption
        self._first_epoch = 0

    def attach(self, engine: Engine) -> None:
        if self.run_epochs > 0:
            engine.add_event_handler(Events.STARTED, self._begin)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._stop_if_done)

    def _begin(self, engine: Any) -> None:
        self._first_epoch = engine.state.epoch

    def _stop_if_done(self, engine: Any) -> None:
        done = engine.state.epoch - self._first_epoch
        if done >= self.run_epochs and engine.state.epoch < engine.state.max_epochs:
            logger.info("%d epochs of this session are done (run_epochs)", done)
            self.interruption.stop()
            engine.terminate()
