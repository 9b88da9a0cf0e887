"""Length of a training in steps or in minutes, whichever is given, and the learning rate that follows it."""

from __future__ import annotations

import logging
import time
from typing import Any

from ignite.engine import Engine, Events

from monai_ext.engines import process_group
from monai_ext.engines.schedules import ProgressSchedule

logger = logging.getLogger(__name__)


class TrainingBudget:
    """Ends training when the budget is used up and keeps the schedule in step with it.

    Progress is the share of steps done or, with `max_minutes`, the share of time, whichever is larger. The clock counts
    wall time from the first step to now, validation included, and goes on where it stopped after a resume.

    Args:
        schedule: gets the progress after every step.
        max_minutes: 0 means that steps alone decide.
        max_steps: length in steps instead of the trainer's epochs; 0 leaves it to them.
    """

    def __init__(self, schedule: ProgressSchedule, max_minutes: float = 0.0, max_steps: int = 0) -> None:
        self.schedule = schedule
        self.max_minutes = max_minutes
        self.max_steps = max_steps
        self.progress = 0.0
        self.seconds_before = 0.0
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.advance)

    @property
    def seconds(self) -> float:
        """Training time so far, all sessions together."""
        running = time.monotonic() - self._started if self._started else 0.0
        return self.seconds_before + running

    def start(self, engine: Any) -> None:
        self._started = time.monotonic()
        self.schedule.set_progress(self._progress(engine), _epochs_done(engine))

    def _progress(self, engine: Any) -> float:
        state = engine.state
        progress = state.iteration / max(1, self.max_steps or state.max_epochs * state.epoch_length)
        if self.max_minutes > 0:
            # one clock for all: processes that ended a step apart would wait for each other for ever
            progress = max(progress, process_group.of_first(self.seconds / (60 * self.max_minutes)))
        return min(1.0, progress)

    def is_used_up(self, engine: Any) -> bool:
        """Whether a resumed training has nothing left to do; Ignite would begin it anew."""
        done = self._progress(engine) >= 1.0
        if done:
            logger.info("training is complete: %d steps", engine.state.iteration)
        return done

    def advance(self, engine: Any) -> None:
        """Update progress and learning rate; stop when the budget is used up."""
        self.progress = self._progress(engine)
        self.schedule.set_progress(self.progress, _epochs_done(engine))
        if (self.max_minutes > 0 or self.max_steps > 0) and self.progress >= 1.0:
            engine.terminate()

    @property
    def seconds_left(self) -> float | None:
        """Estimated training time left, None before the first step."""
        return self.seconds * (1 - self.progress) / self.progress if self.progress > 0 else None

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seconds_before = state["seconds"]
        self.schedule.load_state_dict(state["schedule"])


def _epochs_done(engine: Any) -> float:
    return engine.state.iteration / max(1, engine.state.epoch_length)
