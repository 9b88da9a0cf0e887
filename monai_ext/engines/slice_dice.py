"""Soft and hard Dice over validation slices, every slice counted once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.utils.enums import CommonKeys

from monai_ext.engines.case_share import collect
from monai_ext.evaluation.soft_dice import soft_dice
from monai_ext.preprocessing.slice_resize import resized_labels

CLASSES = ("membrane", "background")


class SliceDice(Metric):
    """Mean over slices and both classes of the soft Dice; `engine.state.class_scores` holds the mean hard Dice each.

    The soft Dice is that of NVIDIA's UNet Medical (2021): on probabilities, with squared denominators, per slice. The
    hard Dice is that of the more probable class; a class that is absent from both counts 1. Labels are brought to the
    size of the probabilities.

    Args:
        output_transform: takes `engine.state.output` to (probabilities `[B, 2, h, w]`, labels `[B, 1, H, W]`).
        num_cases: slices of all processes together, dealt out by `CaseShare`; 0: each process scores all its slices.
    """

    def __init__(
        self,
        output_transform: Callable[[Any], Any] = lambda x: (x[CommonKeys.PRED], x[CommonKeys.LABEL]),
        num_cases: int = 0,
    ) -> None:
        self.num_cases = num_cases
        self.soft: list[float] = []
        self.hard: list[list[float]] = []
        super().__init__(output_transform=output_transform)

    def reset(self) -> None:
        self.soft, self.hard = [], []

    def update(self, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        probabilities, labels = output
        labels = resized_labels(labels, probabilities.shape[-2:])
        self.soft += soft_dice(probabilities, labels).mean(1).tolist()
        self.hard += hard_dice(probabilities, labels).tolist()

    def compute(self) -> float:
        soft = collect(self.soft, self.num_cases) if self.num_cases else self.soft
        return sum(soft) / len(soft) if soft else float("nan")

    def completed(self, engine: Engine, name: str) -> None:
        super().completed(engine, name)
        hard = collect(self.hard, self.num_cases) if self.num_cases else self.hard
        means = [sum(column) / len(hard) for column in zip(*hard, strict=True)]
        engine.state.class_scores = dict(zip(CLASSES, means, strict=True))  # type: ignore[attr-defined]


def hard_dice(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Dice of the more probable class.

    Args:
        probabilities: `[B, 2, H, W]`.
        labels: `[B, 1, H, W]` integers 0 and 1.

    Returns:
        `[B, 2]` float64 for classes 0 and 1; 1 where a class is absent from both.
    """
    predicted = probabilities.argmax(1).flatten(1)
    given = labels[:, 0].flatten(1)
    columns = []
    for value in (0, 1):
        p, y = predicted == value, given == value
        both, total = (p & y).sum(1).double(), (p.sum(1) + y.sum(1)).double()
        columns.append(torch.where(total > 0, 2 * both / total.clamp(min=1), 1.0))
    return torch.stack(columns, 1)
