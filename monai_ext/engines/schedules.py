"""Learning rate as a function of progress, so that a schedule fits a number of steps or a number of minutes alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from monai_ext.errors import Problems

SCHEDULES = ("poly", "cosine", "multistep", "plateau", "none")


class ProgressSchedule:
    """Sets the learning rate from progress in [0, 1]: 0 at the first step, 1 when the budget is used up.

    The rate changes after every step. nnU-Net v2 (`poly`) and the nnU-Net of NVIDIA DeepLearningExamples (2021) change
    it once an epoch, and keep through it the rate that its first step has here: at most one epoch's share more (about
    0.1 % of the peak in 1000 epochs). Milestones of `multistep` that are epochs take effect with an epoch's end.

    Args:
        optimizer: its learning rates at construction are the peak.
        kind: `poly` (1 - p)^0.9, `cosine` (1 + cos(pi p)) / 2, `multistep` factor^(milestones passed), `plateau` (times
            factor when the key metric has not improved for `patience` validations) or `none`.
        warmup: share of the budget in which the rate rises linearly from zero.
        factor: of `multistep` and `plateau`.
        milestones: of `multistep`; up to 1 a share of the budget, above 1 a number of epochs done.
        patience: of `plateau`, in validations.
        warmup_start: learning rate of the first step of the warm-up divided by its peak.

    Raises:
        InputError: `kind` is unknown, a milestone is negative or no whole number of epochs, or `warmup_start` is no
            share.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        kind: str = "cosine",
        warmup: float = 0.0,
        factor: float = 0.3,
        milestones: Sequence[float] = (0.5, 0.75),
        patience: int = 10,
        warmup_start: float = 0.0,
    ) -> None:
        problems = Problems("learning rate schedule")
        if kind not in SCHEDULES:
            problems.add(f"--scheduler {kind!r}", "is not known", f"one of {', '.join(SCHEDULES)}")
        for milestone in milestones:
            if milestone < 0 or (milestone > 1 and milestone != int(milestone)):
                rule = "is neither a share of training (0 to 1) nor a whole number of epochs"
                problems.add(f"--lr_steps {list(milestones)}", f"{milestone} {rule}", "as in [0.5,0.75] or [100,150]")
        if not 0 <= warmup_start <= 1:
            problems.add(f"start of the warm-up, {warmup_start} of the peak", "must be a share", "0 to 1")
        problems.raise_if_any()
        self.optimizer = optimizer
        self.kind = kind
        self.warmup = warmup
        self.factor = factor
        self.milestones = tuple(milestones)
        self.patience = patience
        self.warmup_start = warmup_start
        self.peaks = [float(group["lr"]) for group in optimizer.param_groups]
        self.reductions = 0
        self.best = -math.inf
        self.stale = 0
        self._place = (0.0, 0.0)

    def scale(self, progress: float, epochs: float = 0.0) -> float:
        """Learning rate divided by its peak at `progress`, with that many epochs done."""
        p = min(max(progress, 0.0), 1.0)
        risen = min(1.0, p / self.warmup) if self.warmup > 0 else 1.0
        rise = self.warmup_start + (1 - self.warmup_start) * risen
        rest = max(0.0, p - self.warmup) / max(1e-12, 1.0 - self.warmup)
        if self.kind == "poly":
            return rise * (1 - rest) ** 0.9
        if self.kind == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * rest))
        if self.kind == "multistep":
            return rise * self.factor ** sum((epochs if m > 1 else p) >= m for m in self.milestones)
        if self.kind == "plateau":
            return rise * self.factor**self.reductions
        return rise

    def set_progress(self, progress: float, epochs: float = 0.0) -> None:
        """Write the learning rates of the next step into the optimiser.

        Args:
            progress: share of the budget used up.
            epochs: epochs done, a started one as a fraction.
        """
        self._place = (progress, epochs)
        scale = self.scale(progress, epochs)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * scale

    def report_metric(self, metric: float) -> None:
        """Tell `plateau` the key metric (larger is better) of a validation; a reduction counts at once."""
        if metric > self.best:
            self.best, self.stale = metric, 0
            return
        self.stale += 1
        if self.stale > self.patience:
            self.reductions, self.stale = self.reductions + 1, 0
            # now, and not after one more step: a training resumed here knows only the number of reductions
            self.set_progress(*self._place)

    def state_dict(self) -> dict[str, Any]:
        return {"reductions": self.reductions, "best": self.best, "stale": self.stale, "peaks": self.peaks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reductions, self.best, self.stale = state["reductions"], state["best"], state["stale"]
        self.peaks = list(state["peaks"])
