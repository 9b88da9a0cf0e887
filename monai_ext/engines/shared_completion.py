"""The end of an evaluation whose cases are shared by several processes: all have done theirs, or all end."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from ignite.engine import Engine, Events

from monai_ext.engines import process_group


def when_all_are_done(engine: Engine, finish: Callable[[], object]) -> None:
    """Call `finish` on every process at the end of a run, once all have come there.

    Where a run fails on some of them, the others do the rest of their cases and then end with it; one says why, see
    `process_group.together`. Else they would wait for results that never come. Alone, errors stay as they are.

    Args:
        engine: the evaluator.
        finish: collects the results of all processes; its own errors are its own matter (`process_group.first_alone`).
    """
    agreed = False

    def begin() -> None:
        nonlocal agreed
        agreed = False

    def completed() -> None:
        nonlocal agreed
        agreed = True
        process_group.together(lambda: None)
        finish()

    def raised(error: Exception) -> None:
        nonlocal agreed
        if agreed:
            raise error
        agreed = True
        process_group.together(lambda: _fail(error))

    engine.add_event_handler(Events.STARTED, begin)
    engine.add_event_handler(Events.COMPLETED, completed)
    engine.add_event_handler(Events.EXCEPTION_RAISED, raised)


def _fail(error: Exception) -> NoReturn:
    raise error
