"""Random numbers drawn on the device during a step: a function of seed and step, whatever ran before."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events

from monai_ext.engines import process_group


class StepSeed:
    """Seeds PyTorch's generators before every training step, so that dropout after a resume is as without the stop.

    Args:
        seed: of the training.
        rank: of this process, so that ranks drop different values; None asks the process group.
    """

    def __init__(self, seed: int, rank: int | None = None) -> None:
        self.seed = seed
        self.rank = process_group.rank() if rank is None else rank

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Any) -> None:
        # odd multipliers keep neighbouring seeds, ranks and steps apart; the modulus is what all generators take
        mixed = self.seed * 1_000_003 + self.rank * 9_999_991 + engine.state.iteration * 7_919
        torch.manual_seed(mixed % 2**63)
