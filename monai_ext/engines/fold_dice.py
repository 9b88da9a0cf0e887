"""Dice per class over validation volumes, every case counted once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.utils.enums import CommonKeys

from monai_ext.engines.case_share import collect


class FoldDice(Metric):
    """Mean over cases of the Dice of every foreground class; the scalar result is the mean over the classes.

    Per case and class 2 TP / (2 TP + FP + FN); a class absent from the reference counts 1 if it is also absent from the
    prediction, else 0. `engine.state.class_scores` holds the mean per class,
    `engine.state.dice_per_case` the values behind it.

    Args:
        classes: class name to value.
        ignore_label: voxels with this reference value are left out.
        output_transform: takes `engine.state.output` to (prediction, label); the prediction is a label map
            `[B, 1, *S]` or logits `[B, K, *S]`.
        num_cases: volumes of all processes together, dealt out by `CaseShare`; 0: each process scores all its volumes.
    """

    def __init__(
        self,
        classes: Mapping[str, int],
        ignore_label: int | None = None,
        output_transform: Callable[[Any], Any] = lambda x: (x[CommonKeys.PRED], x[CommonKeys.LABEL]),
        num_cases: int = 0,
    ) -> None:
        self.classes = dict(classes)
        self.ignore_label = ignore_label
        self.num_cases = num_cases
        self.rows: list[list[float]] = []
        super().__init__(output_transform=output_transform)

    def reset(self) -> None:
        self.rows = []

    def update(self, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        prediction, label = output
        if isinstance(prediction, list | tuple):
            prediction = prediction[0]
        if prediction.shape[1] > 1:
            prediction = prediction.argmax(dim=1, keepdim=True)
        for p, y in zip(prediction.long(), label.long(), strict=True):
            if self.ignore_label is not None:
                keep = y != self.ignore_label
                p, y = p[keep], y[keep]
            row = []
            for value in self.classes.values():
                in_p, in_y = p == value, y == value
                both, total = int((in_p & in_y).sum()), int(in_p.sum()) + int(in_y.sum())
                row.append(2 * both / total if total else 1.0)
            self.rows.append(row)

    def compute(self) -> float:
        rows = self._rows_of_all()
        if not rows:
            return float("nan")
        return sum(sum(row) for row in rows) / (len(rows) * len(self.classes))

    def _rows_of_all(self) -> list[list[float]]:
        return collect(self.rows, self.num_cases) if self.num_cases else self.rows

    def completed(self, engine: Engine, name: str) -> None:
        super().completed(engine, name)
        rows = self._rows_of_all()
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        engine.state.class_scores = dict(zip(self.classes, means, strict=True))  # type: ignore[attr-defined]
        engine.state.dice_per_case = rows  # type: ignore[attr-defined]
