"""Balanced sampling: numbers, chances, repeatability."""

from __future__ import annotations

import pytest
import torch

from monai_ext.networks.mask_rcnn.sampler import BalancedSampler, keys_of_images


def states(positives: int, negatives: int, ignored: int = 50) -> torch.Tensor:
    values = torch.tensor([1] * positives + [0] * negatives + [-1] * ignored, dtype=torch.int8)
    return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(9))]


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
    torch.manual_seed(0)
    assert torch.equal(BalancedSampler(64, 0.25).batch(given)[0], indices)
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


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BalancedSampler(0)
    with pytest.raises(ValueError, match="from 0 to 1"):
        BalancedSampler(4, 1.5)


def test_what_an_image_draws_depends_on_itself_alone() -> None:
    """Not on the other images of the batch, nor on their numbers of candidates, nor on torch's generator."""
    cpu, sampler = torch.device("cpu"), BalancedSampler(16, 0.5)
    states = torch.randint(0, 2, (3, 90), generator=torch.Generator().manual_seed(1))
    states[0, 50:] = -1
    keys = keys_of_images([7, 8, 9], [50, 90, 90], 0, cpu)
    assert keys is not None
    indices, kinds = sampler.batch(states, keys)
    for row, (draw, count) in enumerate(((7, 50), (8, 90), (9, 90))):
        own = keys_of_images([draw], [count], 0, cpu)
        found = sampler.batch(states[row : row + 1, :count], own)
        assert torch.equal(found[0][0], indices[row])
        assert torch.equal(found[1][0], kinds[row])
    other_stage = keys_of_images([7, 8, 9], [50, 90, 90], 1, cpu)
    assert other_stage is not None
    assert not torch.equal(keys, other_stage)
    assert not torch.equal(keys[1], keys[2])
    assert keys_of_images([7, None], [5, 5], 0, cpu) is None
