"""Classes of unequal size: weights for the loss, or a stream that shows every class equally often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from monai_ext.engines.sample_stream import SampleStream
from monai_ext.errors import InputError


class Labelled(Protocol):
    """What is needed of a case of a classification dataset."""

    @property
    def labels(self) -> tuple[int, ...]: ...


def class_weights(cases: Sequence[Labelled], num_classes: int) -> torch.Tensor:
    """Weights in inverse proportion to how often the classes occur, `N / (K n_k)`.

    A case that has several labels counts for each of them; N is the number of labels. A class without cases gets 0 and
    does not count in K, so that the mean weight over all labels is 1.

    Args:
        cases: of the training.
        num_classes: length of the result.

    Returns:
        `[num_classes]` float32.

    Raises:
        InputError: no case has a label.
    """
    counts = np.bincount([label for case in cases for label in case.labels], minlength=num_classes)
    if not counts.any():
        raise InputError("class weights: no training case has a label. Cure: another dataset, or --class_weights []")
    present = counts > 0
    weights = np.zeros(num_classes)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return torch.from_numpy(weights).float()


class BalancedStream(SampleStream):
    """As `SampleStream`, but every class is shown equally often, its cases again and again.

    Each round of as many samples as there are classes shows every class once, in an order of its own; the cases of a
    class pass by in permutations. So what sample number n shows is a function of (seed, n) alone. A case with several
    labels belongs to all of them; cases without any make up one more class.

    Args:
        cases: to draw from; the stream gives their indices.
        batch_size: samples per step and rank.
        seed: of the permutations.
        rank, world_size: this process's share of every step.

    Raises:
        InputError: there is no case.
    """

    def __init__(
        self, cases: Sequence[Labelled], batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if not cases:
            raise InputError("balanced sampling: there is no training case. Cure: another dataset or fold")
        super().__init__(len(cases), batch_size, seed, rank, world_size)
        groups: dict[int, list[int]] = {}
        for index, case in enumerate(cases):
            for label in case.labels or (-1,):
                groups.setdefault(label, []).append(index)
        self.groups = [np.array(groups[label]) for label in sorted(groups)]
        self._kept: dict[int, tuple[int, np.ndarray]] = {}

    def case_index(self, sample: int) -> int:
        """Case that sample number `sample` shows."""
        number, position = divmod(sample, len(self.groups))
        which = int(self._order(len(self.groups), number)[position])
        group = self.groups[which]
        current, place = divmod(number, len(group))
        return int(group[self._order(len(group), current, which)[place]])

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        step = self.first_step
        while True:
            first = (step * self.world_size + self.rank) * self.batch_size
            for sample in range(first, first + self.batch_size):
                yield sample, self.case_index(sample), self.rank * self.batch_size + sample - first
            step += 1

    def _order(self, length: int, number: int, group: int = -1) -> np.ndarray:
        """Permutation `number` of the classes (`group` -1) or of the cases of a class; the latest is kept."""
        kept = self._kept.get(group)
        if kept is None or kept[0] != number:
            # the group's word keeps the permutations of equally large classes apart
            order = np.random.default_rng((self.seed, number, group + 1)).permutation(length)
            kept = self._kept[group] = (number, order)
        return kept[1]
