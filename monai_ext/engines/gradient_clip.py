"""Clipping of the gradient norm, which MONAI's trainer lacks."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents


class GradientClip:
    """Scales the gradients down to a total norm of `max_norm` between backward pass and step; 0 switches it off.

    The unclipped norm is kept in `engine.state.gradient_norm`.
    """

    def __init__(self, max_norm: float = 0.0) -> None:
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        if self.max_norm > 0:
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        if engine.scaler is not None and engine.amp:
            engine.scaler.unscale_(engine.optimizer)
        engine.state.gradient_norm = torch.nn.utils.clip_grad_norm_(engine.network.parameters(), self.max_norm)
