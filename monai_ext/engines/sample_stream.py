"""Which training case each sample shows: a function of (seed, sample number), endless and resumable anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class SampleStream(Sampler[tuple[int, int, int]]):
    """Endless stream of `(sample number, case index, slot in batch)`.

    Samples are numbered 0, 1, 2, ... over the whole training, all ranks together; step t uses the numbers
    `t * batch_size * world_size` and following. Every pass over the cases has its own permutation, so that each case is
    shown equally often, and what a sample shows depends neither on workers nor on what ran before.

    Args:
        num_cases: cases to draw from.
        batch_size: samples per step and rank.
        seed: of the permutations.
        rank, world_size: this process's share of every step.
    """

    def __init__(self, num_cases: int, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if num_cases < 1:
            raise ValueError(f"num_cases must be at least 1, got {num_cases}")
        self.num_cases = num_cases
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.first_step = 0

    def start_at(self, step: int) -> None:
        """Continue as if `step` steps had been taken; call before iteration begins."""
        self.first_step = step

    def case_index(self, sample: int) -> int:
        """Case that sample number `sample` shows."""
        number, position = divmod(sample, self.num_cases)
        return int(self.order_of_pass(number)[position])

    def order_of_pass(self, number: int) -> np.ndarray:
        """`[N]`, the cases in the order in which pass `number` shows them."""
        return np.random.default_rng((self.seed, number)).permutation(self.num_cases)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        step, order, number = self.first_step, np.empty(0, int), -1
        while True:
            first = (step * self.world_size + self.rank) * self.batch_size
            for sample in range(first, first + self.batch_size):
                current, position = divmod(sample, self.num_cases)
                if current != number:
                    order, number = self.order_of_pass(current), current
                # the slot counts over the whole batch of all ranks: a forced share must not depend on their number
                yield sample, int(order[position]), self.rank * self.batch_size + sample - first
            step += 1
