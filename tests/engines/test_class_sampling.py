"""Balanced sampling and class weights."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch

from monai_ext.datasets.classification_dataset import ImageCase
from monai_ext.engines.class_sampling import BalancedStream, class_weights
from monai_ext.errors import InputError


def cases(*labels: tuple[int, ...]) -> list[ImageCase]:
    return [ImageCase(str(number), Path(str(number)), label) for number, label in enumerate(labels)]


UNEVEN = cases(*[(0,)] * 10, *[(1,)] * 3, *[(2,)] * 1)


def test_weights_even_the_classes_out() -> None:
    weights = class_weights(UNEVEN, 4)
    assert weights.dtype == torch.float32
    assert torch.allclose(weights * torch.tensor([10.0, 3, 1, 0]), torch.tensor([14 / 3, 14 / 3, 14 / 3, 0]))
    assert float((weights * torch.tensor([10.0, 3, 1, 0])).sum()) == pytest.approx(14)
    assert torch.allclose(class_weights(cases((0, 1), (0,), ()), 2), torch.tensor([0.75, 1.5]))
    with pytest.raises(InputError, match="no training case has a label"):
        class_weights(cases((), ()), 2)


def test_every_class_equally_often_and_every_case_of_a_class_too() -> None:
    stream = BalancedStream(UNEVEN, 5, seed=1)
    shown = [index for _, index, _ in islice(stream, 300)]
    counts = Counter(UNEVEN[index].labels[0] for index in shown)
    assert counts == {0: 100, 1: 100, 2: 100}
    times = Counter(shown)
    assert {times[index] for index in range(10)} == {10}
    assert {times[index] for index in range(10, 13)} == {33, 34}
    assert all(len({UNEVEN[i].labels[0] for i in shown[first : first + 3]}) == 3 for first in range(0, 300, 3))
    orders = {tuple(UNEVEN[i].labels[0] for i in shown[first : first + 3]) for first in range(0, 300, 3)}
    assert len(orders) == 6
    passes = [[i for i in shown if i < 10][first : first + 10] for first in range(0, 100, 10)]
    assert all(sorted(part) == list(range(10)) for part in passes)
    assert len({tuple(part) for part in passes}) == 10


def test_resuming_and_ranks() -> None:
    whole = list(islice(BalancedStream(UNEVEN, 4, seed=2), 40))
    assert [sample for sample, _, _ in whole] == list(range(40))
    resumed = BalancedStream(UNEVEN, 4, seed=2)
    resumed.start_at(6)
    assert list(islice(resumed, 16)) == whole[24:]
    shares = [list(islice(BalancedStream(UNEVEN, 2, seed=2, rank=rank, world_size=2), 20)) for rank in (0, 1)]
    together = [entry for step in range(10) for share in shares for entry in share[2 * step : 2 * step + 2]]
    assert together == whole
    far = BalancedStream(UNEVEN, 4, seed=2)
    assert [far.case_index(sample) for sample in (39, 3, 17)] == [whole[39][1], whole[3][1], whole[17][1]]
    assert [index for _, index, _ in islice(BalancedStream(UNEVEN, 4, seed=3), 40)] != [i for _, i, _ in whole]


def test_several_labels_and_none() -> None:
    several = cases((0, 1), (1,), (), (0,))
    shown = Counter(index for _, index, _ in islice(BalancedStream(several, 1), 60))
    assert shown == {0: 20, 1: 10, 2: 20, 3: 10}  # classes 0, 1 and "none" by turns


def test_without_cases() -> None:
    with pytest.raises(InputError, match="no training case"):
        BalancedStream([], 4)
