"""Every case of a validation is scored once, however many processes share them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_ext.engines import process_group
from monai_ext.engines.case_share import CaseShare, collect, dealt_back
from monai_ext.engines.slice_dice import SliceDice
from rank_processes import on_ranks


@pytest.mark.parametrize("num_cases", [1, 2, 5, 8, 13])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_every_case_comes_back_once_and_in_order(num_cases: int, world_size: int) -> None:
    shares = [list(CaseShare(num_cases, rank, world_size)) for rank in range(world_size)]
    assert [len(CaseShare(num_cases, rank, world_size)) for rank in range(world_size)] == [len(s) for s in shares]
    assert min(len(share) for share in shares) >= 1  # an evaluation of nothing is an error
    assert max(len(share) for share in shares) - min(len(share) for share in shares) <= 1
    assert dealt_back(shares, num_cases) == list(range(num_cases))


def test_lost_and_doubled_results_are_noticed() -> None:
    for shares in ([[0, 2], []], [[0, 2, 2], [1]]):
        with pytest.raises(RuntimeError, match=r"for 1 of 3 cases|for 2 of 3 cases"):
            dealt_back(shares, 3)
    with pytest.raises(ValueError, match="at least 1"):
        CaseShare(0)


def _score(probabilities: torch.Tensor, labels: torch.Tensor) -> tuple[float, list[float]]:
    metric = SliceDice(num_cases=len(labels))
    for case in CaseShare(len(labels)):
        metric.update((probabilities[case : case + 1], labels[case : case + 1]))
    return metric.compute(), [collect([float(process_group.rank())], process_group.world_size())[-1]]


def test_dice_of_all_ranks_is_that_of_one_process() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(5, 2, 8, 8, generator=generator).softmax(1)
    labels = (torch.rand(5, 1, 8, 8, generator=generator) > 0.6).long()
    alone = SliceDice()
    alone.update((probabilities, labels))
    results: list[Any] = on_ranks(_score, 3, probabilities, labels)
    assert results == [(alone.compute(), [2.0])] * 3
    assert on_ranks(_score, 2, probabilities[:1], labels[:1])[1][0] == pytest.approx(
        _score(probabilities[:1], labels[:1])[0], abs=0
    )
