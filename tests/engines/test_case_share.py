"""Every case of a validation is scored once, however many processes share them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from monai_ext.engines import process_group
from monai_ext.engines.case_share import CaseShare, collect, collect_at_first, collect_rows, dealt_back, has_share
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
    with pytest.raises(ValueError, match="at least 0"):
        CaseShare(-1)


def test_of_no_cases_nobody_gets_one() -> None:
    for rank in (0, 1):
        share = CaseShare(0, rank, 2)
        assert (list(share), len(share)) == ([], 0)
    assert dealt_back([[], []], 0) == []


def _who_has_a_share() -> list[bool]:
    return [has_share(num_cases) for num_cases in (1, 2, 3)]


def test_a_process_knows_that_its_case_is_not_its_own() -> None:
    assert _who_has_a_share() == [True, True, True]
    assert on_ranks(_who_has_a_share, 3) == [[True, True, True], [False, True, True], [False, False, True]]


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


def _rows(num_cases: int) -> tuple[Any, list[str], list[str]]:
    own = list(CaseShare(num_cases))
    rows = collect_rows(np.array([[case, 10 * case] for case in own]), num_cases)
    return rows.tolist(), collect([f"case {case}" for case in own], num_cases), collect_at_first(own, num_cases)


@pytest.mark.parametrize("num_cases", [1, 2, 5])
def test_rows_and_pages_of_all_ranks(num_cases: int) -> None:
    """Also with fewer cases than ranks; pages come to the first rank alone."""
    for rank, (rows, names, pages) in enumerate(on_ranks(_rows, 3, num_cases)):
        assert rows == [[case, 10 * case] for case in range(num_cases)]
        assert names == [f"case {case}" for case in range(num_cases)]
        assert pages == (list(range(num_cases)) if rank == 0 else [])
    assert _rows(num_cases)[2] == list(range(num_cases))


def test_lost_rows_are_noticed() -> None:
    for function in (collect_rows, collect_at_first):
        with pytest.raises(RuntimeError, match="has 2 results for 3 of 3 cases"):
            function(np.zeros((2, 1)), 3)
