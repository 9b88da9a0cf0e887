"""States in the log how many objects the limit per sample left out of the training."""

from __future__ import annotations

import logging
from typing import Any

from ignite.engine import Engine, Events

from monai_ext.engines import process_group

logger = logging.getLogger(__name__)


class CappedObjects:
    """Counts `capped` of the batches that `collate_instances` makes, and logs the count of every epoch that has any.

    Attributes:
        epoch: objects left out in the epoch that runs; when it is over, by all processes together.
        total: since the start of the process.
    """

    def __init__(self) -> None:
        self.epoch = self.total = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        # MONAI's engines may take the batch apart later in the iteration
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._state)

    def _begin(self) -> None:
        self.epoch = 0

    def _count(self, engine: Any) -> None:
        left_out = int(engine.state.batch.get("capped", 0))
        self.epoch += left_out
        self.total += left_out

    def _state(self, engine: Any) -> None:
        self.epoch = sum(process_group.gather(self.epoch))
        if self.epoch:
            logger.info(
                "epoch %d: %d objects were above --max_objects of their sample and were ignored",
                engine.state.epoch,
                self.epoch,
            )
