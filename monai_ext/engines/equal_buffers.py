"""Buffers of a network, such as running statistics of batch norms, made equal on all processes."""

from __future__ import annotations

from collections import defaultdict

import torch
from ignite.engine import Engine, Events
from torch import distributed, nn

from monai_ext.engines import process_group


class EqualBuffers:
    """Before every validation, gives all processes the buffers of the first one.

    Processes that train together have equal weights, but after a step each its own running statistics. A
    validation whose cases they share must be that of one network, and it is the first process that saves one.
    Statistics of the first are kept rather than a mean over all, since a checkpoint holds them: a resumed training goes
    on exactly as one without a stop.

    Args:
        network: that is validated and saved.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Attach to the validation engine, before what reads or measures statistics."""
        engine.add_event_handler(Events.STARTED, lambda _: take_from_first(self.network))


@torch.no_grad()
def take_from_first(network: nn.Module) -> None:
    """Overwrite the buffers of a network by those of the first process; alone, do nothing."""
    if process_group.world_size() == 1:
        return
    kinds: dict[torch.dtype, list[torch.Tensor]] = defaultdict(list)
    for buffer in network.buffers():
        if buffer.numel():
            kinds[buffer.dtype].append(buffer)
    for buffers in kinds.values():
        packed = torch.cat([buffer.flatten() for buffer in buffers])
        # gloo has no messages of bool
        message = packed.to(torch.uint8) if packed.dtype == torch.bool else packed
        distributed.broadcast(message, 0)
        parts = message.to(packed.dtype).split([buffer.numel() for buffer in buffers])
        for buffer, part in zip(buffers, parts, strict=True):
            buffer.copy_(part.view_as(buffer))
