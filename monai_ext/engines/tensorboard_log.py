"""Curves and pictures for TensorBoard: loss and its parts, learning rate, Dice per class, seconds per iteration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys

from monai_ext.evaluation.overlay_picture import compose_overlay
from monai_ext.planning.plan import Plan


class TensorBoardLog:
    """Writes scalars after every epoch and a picture of the first validation case after every validation.

    The event file is opened when training starts, not when the config is parsed.

    Args:
        folder: log directory.
        evaluator: the validation engine; its last outputs are drawn.
        plan: names of the classes and spacing of the drawn slices.
    """

    def __init__(self, folder: str | Path, evaluator: Any, plan: Plan) -> None:
        self.folder = str(folder)
        self.evaluator = evaluator
        self.plan = plan
        self._writer: Any = None
        self.sample: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._drawn = 0
        self._first_step = 0

    def attach(self, engine: Engine) -> None:
        self.evaluator.add_event_handler(Events.EPOCH_STARTED, lambda _: self._forget())
        self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._keep)
        engine.add_event_handler(Events.STARTED, self._note_first_step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._scalars)
        engine.add_event_handler(Events.COMPLETED, self._close)

    @property
    def writer(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # curves of steps that are done again after a resume or an overwrite disappear
            self._writer = SummaryWriter(self.folder, purge_step=self._first_step + 1)
        return self._writer

    def _note_first_step(self, engine: Any) -> None:
        self._first_step = engine.state.iteration

    def _forget(self) -> None:
        self.sample = None

    def _keep(self, engine: Any) -> None:
        if self.sample is not None:
            return
        output = engine.state.output
        prediction = output[CommonKeys.PRED]
        prediction = prediction[0] if isinstance(prediction, list | tuple) else prediction
        labels = prediction[0].argmax(0) if prediction.shape[1] > 1 else prediction[0, 0]
        image, reference = output[CommonKeys.IMAGE][0, 0], output[CommonKeys.LABEL][0, 0]
        self.sample = (image.float().cpu().numpy(), reference.cpu().numpy(), labels.cpu().numpy())

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
        self.writer.add_scalar("validation/mean_dice", validation["mean_dice"], step)
        for name, value in validation["dice"].items():
            self.writer.add_scalar(f"validation/dice_{name}", value, step)
        if self.sample is not None:
            picture = compose_overlay(*self.sample, self.plan.foreground_classes, self.plan.voxel_size)
            self.writer.add_image("validation/slices", picture, step, dataformats="HWC")

    def _close(self, engine: Any) -> None:
        self._validation(engine.state, engine.state.iteration)
        if self._writer is not None:
            self._writer.close()
            self._writer = None
