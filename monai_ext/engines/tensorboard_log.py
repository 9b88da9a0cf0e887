"""Curves and pictures for TensorBoard: loss and its parts, learning rate, Dice per class, seconds per iteration."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_ext.engines import process_group
from monai_ext.engines.validation_picture import ValidationPicture
from monai_ext.expected_folders import check_folder

logger = logging.getLogger(__name__)


class TensorBoardLog:
    """Writes scalars after every epoch and a picture after every validation; of several processes the first.

    The event file is opened when training starts, not when the config is parsed. Where it cannot be written, a warning
    says so and training goes on without curves: whether it must end is for those to say who write its checkpoints.

    Args:
        folder: log directory.
        evaluator: the validation engine.
        picture: draws its outputs.
    """

    def __init__(self, folder: str | Path, evaluator: Any, picture: ValidationPicture) -> None:
        self.folder = str(folder)
        self.evaluator = evaluator
        self.picture = picture
        self._writer: Any = None
        self._drawn = 0
        self._first_step = 0
        self._given_up = False

    def attach(self, engine: Engine) -> None:
        if not process_group.is_first():
            return
        self.evaluator.add_event_handler(Events.EPOCH_STARTED, lambda _: self.picture.forget())
        self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda e: self.picture.keep(e.state.output))
        engine.add_event_handler(Events.STARTED, self._note_first_step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: self._try(self._scalars, e))
        engine.add_event_handler(Events.COMPLETED, lambda e: self._try(self._close, e))

    def _try(self, write: Callable[[Any], None], engine: Any) -> None:
        if self._given_up:
            return
        try:
            check_folder(Path(self.folder))
            write(engine)
        except OSError as error:
            logger.warning("%s: cannot be written (%s), so curves end here", self.folder, error.strerror or error)
            self._writer, self._given_up = None, True

    @property
    def writer(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # curves of steps that are done again after a resume or an overwrite disappear
            self._writer = SummaryWriter(self.folder, purge_step=self._first_step + 1)
        return self._writer

    def _note_first_step(self, engine: Any) -> None:
        self._first_step = engine.state.iteration

    def _scalars(self, engine: Any) -> None:
        state, step = engine.state, engine.state.iteration
        for name, value in getattr(state, "epoch_means", {}).items():
            self.writer.add_scalar(f"train/{name}", value, step)
        self._validation(state, step)

    def _validation(self, state: Any, step: int) -> None:
        validation = getattr(state, "validation", None)
        if validation is None or validation["iteration"] != step or self._drawn == step:
            return
        self._drawn = step
        self.writer.add_scalar(f"validation/{validation['name']}", validation["score"], step)
        for name, value in validation["class_scores"].items():
            self.writer.add_scalar(f"validation/{validation['class_score']}_{name}", value, step)
        picture = self.picture.compose()
        if picture is not None:
            self.writer.add_image("validation/slices", picture, step, dataformats="HWC")

    def _close(self, engine: Any) -> None:
        self._validation(engine.state, engine.state.iteration)
        if self._writer is not None:
            self._writer.close()
            self._writer = None
