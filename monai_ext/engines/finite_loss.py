"""Training that diverged stops before its weights are validated or saved."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events

from monai_ext.errors import InputError


class FiniteLoss:
    """Raises when a loss was NaN or infinite; attach it before the handlers that validate and save.

    The flag stays on the device and is read every `interval` steps and at the end of every epoch, so that looking at it
    does not stop the device at every step.
    """

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval
        self._finite: torch.Tensor | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self._check)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._check)
        engine.add_event_handler(Events.COMPLETED, self._check)

    def _note(self, engine: Any) -> None:
        finite = torch.isfinite(engine.state.output["loss"].detach()).all()
        self._finite = finite if self._finite is None else self._finite & finite

    def _check(self, engine: Any) -> None:
        if self._finite is not None and not bool(self._finite):
            raise InputError(
                f"the loss is not finite any more by step {engine.state.iteration}. Cure: a smaller --learning_rate, "
                "--grad_clip 12, --warmup 0.05; what was saved before is kept"
            )
