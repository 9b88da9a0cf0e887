"""Validation every few epochs and once more at the end, with the best model kept and a plateau noticed."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.handlers import ValidationHandler

from monai_ext.atomic_files import save_tensors
from monai_ext.engines import process_group
from monai_ext.engines.checkpoint_files import damage
from monai_ext.engines.interruption import Interruption
from monai_ext.engines.run_protection import PLAN_FILE
from monai_ext.engines.schedules import ProgressSchedule
from monai_ext.planning.plan_identity import note_plan

logger = logging.getLogger(__name__)
STATE = (
    "best",
    "best_epoch",
    "best_class_scores",
    "score_name",
    "last_iteration",
    "last_class_scores",
    "final_iteration",
)


class ScheduledValidation(ValidationHandler):
    """Runs the evaluator, writes `model.pt` when the key metric improves, stops after `patience` stale epochs.

    A model whose key metric or weights are not finite is never the best. After the last step it validates once more
    (unless that epoch was validated) and writes `model_final.pt`.

    A signal ends a validation before the network's next call. What was not validated for that reason is validated when
    the training is gone on with, before its next step, so that it goes the way it would have gone.

    Args:
        validator: the evaluator; its key metric decides, larger is better.
        interval: epochs between validations.
        network: whose weights are saved.
        folder: where the model files go.
        schedule: told the key metric, for `plateau`.
        start_epoch: no validation before this epoch.
        patience: epochs without improvement after which training ends; 0 never ends it early.
        min_epochs: never end before.
        interruption: nothing is validated after an interruption.
        class_score: what the validator's `state.class_scores` (class name to value) holds.
    """

    def __init__(
        self,
        validator: SupervisedEvaluator,
        interval: int,
        network: torch.nn.Module,
        folder: str | Path,
        schedule: ProgressSchedule,
        start_epoch: int = 1,
        patience: int = 0,
        min_epochs: int = 0,
        interruption: Interruption | None = None,
        class_score: str = "dice",
    ) -> None:
        super().__init__(interval=interval, validator=validator)
        self.network = network
        self.folder = Path(folder)
        self.schedule = schedule
        self.start_epoch = start_epoch
        self.patience = patience
        self.min_epochs = min_epochs
        self.interruption = interruption
        self.class_score = class_score
        self.best = -math.inf
        self.best_epoch = 0
        self.best_class_scores: dict[str, float] = {}
        self.score_name = ""
        self.last_iteration = 0
        self.last_class_scores: dict[str, float] = {}
        self.final_iteration = -1

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._make_up)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self._validate_if_due)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._stop_on_plateau)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _make_up(self, engine: Any) -> None:
        """Validate the epoch that ended with the step resumed from, if a stop left no time for it."""
        state = engine.state
        ended = state.iteration > 0 and state.iteration % state.epoch_length == 0 and state.epoch % self.interval == 0
        if ended and self.last_iteration != state.iteration:
            self._validate_if_due(engine)
            self._stop_on_plateau(engine)

    def _validate_if_due(self, engine: Any) -> None:
        # a session that ends on request has the time for it, one that ends by a signal has not
        in_a_hurry = self.interruption is not None and self.interruption.received is not None
        if engine.state.epoch >= self.start_epoch and not in_a_hurry:
            self._validate(engine)

    def _validate(self, engine: Any) -> None:
        if self.validator is None:
            raise RuntimeError("no validator is set")
        if self.interruption is None:
            self.validator.run(max(1, engine.state.epoch))
        elif not self.interruption.completes(self.validator, self.network, max(1, engine.state.epoch)):
            engine.terminate()
            return
        state: Any = self.validator.state
        name = state.key_metric_name
        metric = float(state.metrics[name])
        self.last_iteration = engine.state.iteration
        scores = dict(state.class_scores)
        self.last_class_scores = scores
        fault = self._why_not_best(metric, name)
        self.schedule.report_metric(-math.inf if fault else metric)
        if fault:
            logger.warning("epoch %d is not saved as the best model: %s", engine.state.epoch, fault)
        elif metric > self.best:
            self.best, self.best_epoch, self.best_class_scores = metric, engine.state.epoch, scores
            self._save("model.pt")
        self.score_name = name
        engine.state.validation = {
            "iteration": engine.state.iteration,
            "name": name,
            "score": metric,
            "class_score": self.class_score,
            "class_scores": scores,
        }

    def _why_not_best(self, metric: float, name: str) -> str:
        """What forbids to save this model, however good it looks; empty where nothing does."""
        if not math.isfinite(metric):
            return f"its {name} is {metric}"
        # what a network answers NaN to is given the first class, which may even score well
        good = [torch.isfinite(weight).all() for weight in self.network.parameters()]
        # ranges of quantisation are infinite before the first step
        good += [~torch.isnan(values).any() for values in self.network.buffers()]
        return "" if not good or bool(torch.stack(good).all()) else "it holds weights that are not finite"

    def has_plateaued(self, engine: Any) -> bool:
        """Whether no validation of the last `patience` epochs was better than the best before."""
        stale = engine.state.epoch - self.best_epoch
        long_enough = engine.state.epoch >= self.min_epochs
        return bool(self.patience and self.best_epoch and stale >= self.patience and long_enough)

    def _stop_on_plateau(self, engine: Any) -> None:
        if self.has_plateaued(engine):
            engine.terminate()

    def _finish(self, engine: Any) -> None:
        if self.interruption is not None and self.interruption.unfinished:
            return
        if self.last_iteration != engine.state.iteration:
            self._validate(engine)
        if self.interruption is not None and self.interruption.unfinished:
            return
        self._save("model_final.pt")
        self.final_iteration = engine.state.iteration

    def _save(self, name: str) -> None:
        # all processes have the same weights and see the same score
        if process_group.is_first():
            state = self.network.state_dict()
            note_plan(state, self.folder / PLAN_FILE)
            save_tensors(self.folder / name, state)

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        fault = damage(self.folder / "model.pt") if self.best_epoch else ""
        if fault:
            # else a training could end with a best epoch and without its weights
            logger.warning(
                "%s of epoch %d is lost (%s): the next validation's is the best",
                self.folder / "model.pt",
                self.best_epoch,
                fault,
            )
            self.best, self.best_epoch, self.best_class_scores = -math.inf, 0, {}
