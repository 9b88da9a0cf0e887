"""When quantisation-aware training begins to round."""

from __future__ import annotations

import logging
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from monai_ext.networks.fake_quantisation import is_fake_quantised, set_quantising

logger = logging.getLogger(__name__)


class QuantisationStart:
    """Switches rounding on after `quant_delay` steps in which ranges are only observed.

    Whether it is on is a function of the step, so that a resumed training is as one without the stop.

    Args:
        networks: the network being trained, and others that must compute alike, such as its moving average. Networks
            without ranges are left alone.
        quant_delay: steps before rounding starts; 0 rounds from the first step.
    """

    def __init__(self, *networks: nn.Module, quant_delay: int = 0) -> None:
        self.networks = networks
        self.quant_delay = quant_delay
        self.active: bool | None = None  # not known before the first step: the weights may come from a checkpoint

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Any) -> None:
        # the first step is number 1
        active = engine.state.iteration > self.quant_delay
        if active == self.active:
            return
        if active and any(map(is_fake_quantised, self.networks)):
            logger.info("quantisation: 8 bits from step %d on", engine.state.iteration)
        for network in self.networks:
            set_quantising(network, active)
        self.active = active
