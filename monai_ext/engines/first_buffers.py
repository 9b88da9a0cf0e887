"""Running statistics of norms are those of the first process when a network is validated or saved."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from torch import distributed

from monai_ext.engines import process_group


class FirstBuffers:
    """Handler of an evaluator: gives every process the network's buffers of the first one before it starts.

    Batch norms that are not synchronised see other batches on every process, and so have other running means and
    variances. Without this, cases would be scored with other networks than the one that is saved. Alone, and for a
    network without buffers, it does nothing.

    Args:
        network: that is evaluated, on every process the same apart from its buffers.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, _: Engine) -> None:
        if process_group.world_size() > 1:
            for values in self.network.buffers():
                distributed.broadcast(values, 0)
