"""Exponential moving average of the weights; what is validated and saved for inference."""

from __future__ import annotations

import copy
from typing import Any

import torch
from ignite.engine import Engine, Events


class WeightAverage:
    """Keeps `average = d * average + (1 - d) * weight` after every step, in a network of its own.

    The decay warms up as min(decay, (1 + t) / (10 + t)), so that early random weights are soon forgotten. A step that
    `FiniteLoss` skipped does not count.

    Args:
        network: the network being trained; copied once, before training.
        decay: 0 keeps no average: `module` is then the trained network itself.
    """

    def __init__(self, network: torch.nn.Module, decay: float = 0.999) -> None:
        self.source = network
        self.decay = decay
        self.steps = 0
        self.module = network if decay == 0 else copy.deepcopy(network).requires_grad_(False).eval()

    def attach(self, engine: Engine) -> None:
        if self.decay > 0:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._follow)

    def _follow(self, engine: Any) -> None:
        if not getattr(engine.state, "step_skipped", False):
            self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present weights."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        average, source = self.module.state_dict(), self.source.state_dict()
        floating = [name for name in average if average[name].is_floating_point()]
        torch._foreach_lerp_([average[n] for n in floating], [source[n] for n in floating], 1 - decay)
        for name in set(average) - set(floating):
            average[name].copy_(source[name])

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "weights": self.module.state_dict() if self.decay > 0 else {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        if self.decay > 0:
            self.module.load_state_dict(state["weights"] or self.source.state_dict())
