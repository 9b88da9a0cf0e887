"""What a person sees while training runs: a bar with loss and time left, and a line per validation."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from tqdm import tqdm

from monai_ext.atomic_files import append_text, write_text
from monai_ext.engines import process_group
from monai_ext.engines.training_budget import TrainingBudget

logger = logging.getLogger(__name__)


def duration(seconds: float | None) -> str:
    """`1:02:03` or `2:03`; `?` if unknown."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def score_title(name: str) -> str:
    """`mean Dice` for the metric `mean_dice`, `Dice` for `dice`, `mask AP50` for `mask_ap50`."""
    return re.sub(r"\bap(?=\d*\b)", "AP", name.replace("_", " ").replace("dice", "Dice"))


class ProgressLog:
    """Progress bar per epoch, one log line per epoch, and a JSON line per epoch in `log_file`.

    Losses are collected on the device and read every `log_interval` steps, so that logging costs no synchronisation.
    Of several processes the first writes; the means of an epoch are those of all, the bar shows its own.
    Steps that `FiniteLoss` skipped are counted and left out of the means.

    Args:
        budget: knows the time left.
        loss: its `last_parts` (name to scalar tensor) are averaged over the epoch.
        log_file: JSON lines are appended here.
        log_interval: steps between updates of the bar.
    """

    def __init__(self, budget: TrainingBudget, loss: Any, log_file: str | Path, log_interval: int = 10) -> None:
        self.budget = budget
        self.loss = loss
        self.log_file = Path(log_file)
        self.log_interval = log_interval
        self._bar: Any = None
        self._sums: dict[str, Any] = {}
        self._steps = self._skipped = 0
        self._began = self._last_step = 0.0
        self._logged = 0
        self._validated = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._forget_the_undone)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _forget_the_undone(self, engine: Any) -> None:
        """Drop lines of steps that are about to be done again: all of them, or those after the checkpoint resumed."""
        if process_group.is_first() and self.log_file.exists():
            lines = self.log_file.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("}\n")]  # a kill may have cut the last line
            kept = [line for line in whole if json.loads(line)["iteration"] <= engine.state.iteration]
            write_text(self.log_file, "".join(kept))
            self._logged = json.loads(kept[-1])["iteration"] if kept else 0
            self._finish_line(engine)
        # whether the last step still wants a line is what all processes must agree on
        self._logged = int(process_group.of_first(self._logged))

    def _begin(self, engine: Any) -> None:
        state = engine.state
        timed = self.budget.max_minutes > 0
        name = f"epoch {state.epoch}" if timed else f"epoch {state.epoch}/{state.max_epochs}"
        quiet = not sys.stderr.isatty()
        first = state.iteration % state.epoch_length
        self._bar = tqdm(
            total=state.epoch_length,
            initial=first,
            desc=name,
            mininterval=20 if quiet else 0.5,
            leave=False,
            unit="it",
            disable=not process_group.is_first(),
        )
        self._sums, self._steps, self._skipped, self._began = {}, 0, 0, time.monotonic()

    def _step(self, engine: Any) -> None:
        if getattr(engine.state, "step_skipped", False):  # its loss says nothing
            self._skipped += 1
            self._last_step = time.monotonic()
            self._bar.update()
            return
        parts = {"loss": engine.state.output["loss"].detach(), **getattr(self.loss, "last_parts", {})}
        for name, value in parts.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        self._steps += 1
        self._last_step = time.monotonic()
        if self._steps % self.log_interval == 0 or self._steps == 1:
            left = duration(self.budget.seconds_left)
            self._bar.set_postfix_str(f"loss {float(self._sums['loss']) / self._steps:.3f}, {left} left", refresh=False)
        self._bar.update()

    def _end(self, engine: Any) -> None:
        state = engine.state
        means = _mean_of_all({name: float(value) / max(1, self._steps) for name, value in self._sums.items()})
        seconds = (self._last_step - self._began) / max(1, self._steps + self._skipped)
        self._logged = state.iteration
        rate = engine.optimizer.param_groups[0]["lr"]
        state.epoch_means = {**means, "learning_rate": rate, "seconds_per_iteration": seconds}
        row: dict[str, Any] = {"epoch": state.epoch, "iteration": state.iteration, **state.epoch_means}
        text = f"epoch {state.epoch}: loss {means.get('loss', float('nan')):.4f}"
        if self._skipped:
            row["skipped_steps"] = self._skipped
            text += f", {self._skipped} steps skipped"
        validation = getattr(state, "validation", None)
        if validation is not None and validation["iteration"] == state.iteration:
            name, score = validation["name"], validation["score"]
            row[name], row[f"class_{validation['class_score']}"] = score, validation["class_scores"]
            per_class = ", ".join(f"{n} {d:.3f}" for n, d in validation["class_scores"].items())
            text += f", validation {score_title(name)} {score:.4f} ({per_class})"
            self._validated = state.iteration
        row["minutes"] = self.budget.seconds / 60
        self._close(engine)
        if not process_group.is_first():
            return
        logger.info("%s, %s left", text, duration(self.budget.seconds_left))
        append_text(self.log_file, json.dumps(row) + "\n")

    def _finish(self, engine: Any) -> None:
        """Log what was validated after the last epoch was logged: its end, or that of an epoch cut short."""
        validation = getattr(engine.state, "validation", None)
        if validation is not None and validation["iteration"] == engine.state.iteration:
            if self._logged < engine.state.iteration:
                self._end(engine)
            elif process_group.is_first():
                self._finish_line(engine)
        self._close(engine)

    def _finish_line(self, engine: Any) -> None:
        """Log a validation that came after the line of its epoch: the last one, or one that a stop had put off."""
        validation, step = getattr(engine.state, "validation", None), engine.state.iteration
        if validation is not None and validation["iteration"] == step == self._logged and self._validated < step:
            self._complete(validation)
            self._validated = step

    def _complete(self, validation: dict[str, Any]) -> None:
        """Add a validation to the last line, which was written before it."""
        lines = self.log_file.read_text(encoding="utf-8").splitlines(keepends=True)
        name, score = validation["name"], validation["score"]
        row = {**json.loads(lines[-1]), name: score, f"class_{validation['class_score']}": validation["class_scores"]}
        write_text(self.log_file, "".join([*lines[:-1], json.dumps(row) + "\n"]))
        per_class = ", ".join(f"{n} {d:.3f}" for n, d in validation["class_scores"].items())
        logger.info("last validation: %s %.4f (%s)", score_title(name), score, per_class)

    def _close(self, _: Any) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _mean_of_all(means: dict[str, float]) -> dict[str, float]:
    """Mean over the processes, whose batches are of one size; a part of the loss that one of them lacks is left out."""
    shares = process_group.gather(means)
    return {name: sum(s[name] for s in shares) / len(shares) for name in means if all(name in s for s in shares)}
