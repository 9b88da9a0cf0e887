"""Scores of a classifier over a validation, every case counted once whatever the batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.utils.enums import CommonKeys

from monai_ext.engines.case_share import collect_rows
from monai_ext.errors import InputError
from monai_ext.evaluation.classification_scores import ClassificationScores, class_probabilities

logger = logging.getLogger(__name__)
KEY_SCORES = (
    "accuracy",
    "top5_accuracy",
    "balanced_accuracy",
    "macro_f1",
    "macro_roc_auc",
    "macro_average_precision",
    "micro_f1",
)


class ClassScores(Metric):
    """Accuracy, or another score, of a validation.

    `engine.state.class_scores` holds the recall of every class that has validation cases, `engine.state.scores` all
    scores of `ClassificationScores.overall` that are defined.

    Args:
        classes: names, in the order of the network's outputs.
        multi_label: an image may have several classes or none.
        key_score: what decides which model is kept, one of `KEY_SCORES`; "": `accuracy`, and of a multi-label
            classifier the mean average precision, which does not depend on a threshold.
        threshold: of multi-label decisions.
        output_transform: takes `engine.state.output` to (logits `[B, K]`, labels int64 `[B]` or 0 and 1 `[B, K]`).
        num_cases: of all processes together, dealt out by `CaseShare`; every process then has the scores of all of
            them. 0: this process has all.

    Attributes:
        of_all: logits and labels of all processes, once a score was computed of them; None before and without
            `num_cases`.

    Raises:
        InputError: the key score is unknown or not defined for such a classifier.
    """

    def __init__(
        self,
        classes: Sequence[str],
        multi_label: bool = False,
        key_score: str = "",
        threshold: float = 0.5,
        output_transform: Callable[[Any], Any] = lambda x: (x[CommonKeys.PRED], x[CommonKeys.LABEL]),
        num_cases: int = 0,
    ) -> None:
        self.num_cases = num_cases
        self.classes = tuple(classes)
        self.multi_label = multi_label
        self.key_score = key_score or ("macro_average_precision" if multi_label else "accuracy")
        self.threshold = threshold
        self.logits: list[torch.Tensor] = []
        self.labels: list[torch.Tensor] = []
        possible = [name for name in KEY_SCORES if self._fits(name)]
        if self.key_score not in possible:
            raise InputError(f"--key_score {key_score!r}: is not possible here. Cure: one of {', '.join(possible)}")
        super().__init__(output_transform=output_transform)

    def _fits(self, name: str) -> bool:
        if name == "top5_accuracy":
            return not self.multi_label and len(self.classes) > 5
        return name != "micro_f1" or self.multi_label

    def reset(self) -> None:
        self.logits, self.labels = [], []
        self.of_all: tuple[np.ndarray, np.ndarray] | None = None

    def update(self, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        logits, labels = output
        # copies, as a captured graph writes the next batch over this one; read at the end, so that nothing waits here
        self.logits.append(torch.as_tensor(logits).detach().to(torch.float32, copy=True))
        self.labels.append(torch.as_tensor(labels).detach().clone().reshape(len(logits), -1))

    def collected(self) -> ClassificationScores:
        """The cases so far.

        Raises:
            InputError: no cases.
        """
        if not self.logits:
            raise InputError("validation: has no cases. Cure: a dataset or fold with validation images")
        logits, labels = self._gathered()
        bad = int((~np.isfinite(logits).all(1)).sum())
        if bad:
            logger.warning("the network gives numbers that are not finite for %d of %d cases", bad, len(logits))
            logits = np.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=0.0)
        probabilities = class_probabilities(logits, self.multi_label)
        return ClassificationScores(
            probabilities, labels if self.multi_label else labels[:, 0], self.multi_label, self.threshold
        )

    def _gathered(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits `[N, K]` and labels `[N, 1]` or `[N, K]`, of the cases of all processes once they are through."""
        logits, labels = (torch.cat(values).cpu().numpy() for values in (self.logits, self.labels))
        if not self.num_cases:
            return logits, labels
        if self.of_all is None:
            self.of_all = collect_rows(logits, self.num_cases), collect_rows(labels, self.num_cases)
        return self.of_all

    def compute(self) -> float:
        """Value of the key score.

        Raises:
            InputError: it is undefined, as average precision is where no case has any class.
        """
        value = float(self.collected().overall(ranking=self._needs_ranking)[self.key_score][0])
        if not np.isfinite(value):
            raise InputError(
                f"--key_score {self.key_score}: is undefined for these validation cases, no class has both cases and "
                "others. Cure: another key_score, or validation images of every class"
            )
        return value

    @property
    def _needs_ranking(self) -> bool:
        return self.key_score in ("macro_roc_auc", "macro_average_precision")

    def completed(self, engine: Engine, name: str) -> None:
        super().completed(engine, name)
        scores = self.collected()
        recall = scores.per_class(ranking=False)["sensitivity"][0]
        state: Any = engine.state
        state.class_scores = {c: float(r) for c, r in zip(self.classes, recall, strict=True) if np.isfinite(r)}
        state.scores = {n: float(v[0]) for n, v in scores.overall().items() if np.isfinite(v[0])}
