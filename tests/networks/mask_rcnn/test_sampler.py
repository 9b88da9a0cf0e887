"""Balanced sampling: numbers, chances, repeatability."""

from __future__ import annotations

import pytest
import torch

from monai_ext.networks.mask_rcnn.sampler import BalancedSampler


def states(positives: int, negatives: int, ignored: int = 50) -> torch.Tensor:
    values = torch.tensor([1] * positives + [0] * negatives + [-1] * ignored, dtype=torch.int8)
    return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(9))]


@pytest.mark.parametrize(
    ("positives", "negatives", "drawn"),
    [
        (100, 500, (16, 48)),
        (5, 500, (5, 59)),
        (0, 500, (0, 64)),
        (100, 10, (16, 10)),
        (3, 4, (3, 4)),
        (0, 0, (0, 0)),
        (16, 48, (16, 48)),
    ],
)
def test_numbers(positives: int, negatives: int, drawn: tuple[int, int]) -> None:
    given = states(positives, negatives)
    found = BalancedSampler(64, 0.25)(given, torch.Generator().manual_seed(0))
    assert (found[0].numel(), found[1].numel()) == drawn
    for indices, value in zip(found, (1, 0), strict=True):
        assert indices.dtype == torch.int64
        assert (given[indices] == value).all()
        assert (indices.diff() > 0).all()  # none twice


def test_same_generator_same_sample() -> None:
    given, sampler = states(100, 500), BalancedSampler(64, 0.25)
    first, second, other = (sampler(given, torch.Generator().manual_seed(seed)) for seed in (4, 4, 5))
    assert all(map(torch.equal, first, second))
    assert not any(map(torch.equal, first, other))


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    BalancedSampler(4)(states(50, 50), torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("population", "size"), [(20, 20), (160, 4), (96, 6)])
def test_all_have_the_same_chance(population: int, size: int) -> None:
    given, generator = torch.tensor([1, 0]).repeat_interleave(population), torch.Generator().manual_seed(0)
    counts, rounds = torch.zeros(2 * population), 25 * population
    for _ in range(rounds):
        for indices in BalancedSampler(size, 0.5)(given, generator):
            assert indices.numel() == size // 2
            counts[indices] += 1
    # binomial, its variance below the mean
    mean = rounds * (size // 2) / population
    assert (counts - mean).abs().max() < 5 * mean**0.5


def test_without_a_generator_torch_draws() -> None:
    torch.manual_seed(3)
    first = BalancedSampler(8)(states(50, 50))
    torch.manual_seed(3)
    assert all(map(torch.equal, first, BalancedSampler(8)(states(50, 50))))


def test_rows_of_a_batch() -> None:
    torch.manual_seed(0)
    cases = [(100, 500), (5, 500), (0, 500), (100, 10), (3, 4), (0, 0), (16, 48)]
    given = torch.stack([states(p, n, 600 - p - n) for p, n in cases])
    indices, kinds = BalancedSampler(64, 0.25).batch(given)
    assert indices.shape == kinds.shape == (7, 64)
    assert (kinds == 1).sum(1).tolist() == [16, 5, 0, 16, 3, 0, 16]
    assert (kinds == 0).sum(1).tolist() == [48, 59, 64, 10, 4, 0, 48]
    assert (kinds.diff(dim=1) <= 0).all()  # positives first
    for row, places, kind in zip(given, indices, kinds, strict=True):
        drawn = places[kind >= 0]
        assert drawn.unique().numel() == drawn.numel()
        assert torch.equal(row[drawn], kind[kind >= 0])
    again = BalancedSampler(64, 0.25).batch(given)[0]
    assert not torch.equal(again, indices)
    assert BalancedSampler(64).batch(given[:, :9])[0].shape == (7, 9)
    with pytest.raises(ValueError, match="matrix"):
        BalancedSampler(4).batch(given[0])


def test_all_of_a_row_have_the_same_chance() -> None:
    torch.manual_seed(0)
    given = torch.tensor([1, 0]).repeat_interleave(40).expand(2000, -1)
    indices, kinds = BalancedSampler(16, 0.5).batch(given)
    assert ((kinds == 1).sum(1) == 8).all()
    counts = torch.bincount(indices.flatten(), minlength=80).double()
    assert (counts - 400).abs().max() < 5 * 400**0.5  # binomial, its variance below the mean


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_devices_draw_alike() -> None:
    given, sampler = states(100, 500), BalancedSampler(64, 0.25)
    there = sampler(given.cuda(), torch.Generator().manual_seed(4))
    here = sampler(given, torch.Generator().manual_seed(4))
    assert all(torch.equal(a.cpu(), b) for a, b in zip(there, here, strict=True))


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BalancedSampler(0)
    with pytest.raises(ValueError, match="from 0 to 1"):
        BalancedSampler(4, 1.5)
    with pytest.raises(ValueError, match="vector"):
        BalancedSampler(4)(torch.zeros(2, 2))
