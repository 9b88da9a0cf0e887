"""Differences between a network and its exported form."""

from __future__ import annotations

import pytest
import torch

from monai_ext.errors import InputError
from monai_ext.export.comparison import Comparison, compare, require_near


def test_differences_and_agreement() -> None:
    batches = [torch.tensor([[0.1, 0.9]]), torch.tensor([[0.6, 0.4], [0.2, 0.8], [0.55, 0.45]])]
    found = compare(lambda x: x, lambda x: x + torch.tensor([-0.1, 0.05]), batches)
    assert found.max_difference == pytest.approx(0.1)
    assert found.mean_difference == pytest.approx(0.075)
    assert found.agreement == 0.75
    assert found.largest == pytest.approx(0.9)


def test_not_a_number_is_a_difference() -> None:
    found = compare(lambda x: x, lambda x: x * float("nan"), [torch.ones(1, 2)])
    assert found.max_difference > 1e30
    with pytest.raises(InputError):
        require_near("x", found, 1.0)


def test_fixed_batch_size_is_noticed() -> None:
    with pytest.raises(InputError, match=r"shape \(1, 2\) for an input of \(3, 2\).*depend on the batch size"):
        compare(lambda x: x, lambda x: x[:1], [torch.ones(1, 2), torch.ones(3, 2)])


def test_tolerance() -> None:
    found = Comparison(max_difference=0.2, mean_difference=0.1, agreement=0.5, largest=1)
    require_near("model.ts", found, 0.2)
    require_near("model.ts", found, 0.1, mean=True)
    with pytest.raises(InputError, match=r"model\.ts: differs .* by 0\.2 \(largest\), allowed are 0\.19;"):
        require_near("model.ts", found, 0.19)
    with pytest.raises(InputError, match=r"by 0\.1 \(mean\), allowed are 0\.09; the same class for 50 %"):
        require_near("model.ts", found, 0.09, mean=True)


def test_label_maps_differ_by_the_share_of_labels() -> None:
    one = torch.tensor([[[0, 1], [2, 2]]], dtype=torch.uint8)
    found = compare(lambda x: one, lambda x: torch.where(one == 1, 2, one), [torch.ones(1, 2)])
    assert (found.max_difference, found.agreement) == (0.25, 0.75)
