"""Random numbers of a step depend on seed, rank and step only."""

from __future__ import annotations

import torch
from ignite.engine import Engine

from monai_ext.engines.step_seed import StepSeed


def drawn(steps: int, seed: int = 1, rank: int = 0, first: int = 0) -> list[float]:
    numbers: list[float] = []
    engine = Engine(lambda *_: numbers.append(float(torch.rand(()))))
    StepSeed(seed, rank).attach(engine)
    engine.state.iteration = first
    engine.run([0] * steps, max_epochs=1, epoch_length=steps)
    return numbers


def test_numbers_are_those_of_the_step() -> None:
    numbers = drawn(5)
    torch.rand(17)  # whatever ran before
    assert drawn(5) == numbers
    assert len(set(numbers)) == 5
    assert not set(numbers) & set(drawn(5, seed=2))
    assert not set(numbers) & set(drawn(5, rank=1))
