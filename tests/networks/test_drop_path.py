"""Stochastic depth: whole samples, with the right expectation."""

from __future__ import annotations

import pytest
import torch

from monai_ext.networks.drop_path import DropPath


def test_whole_samples_are_dropped_and_the_rest_is_scaled() -> None:
    torch.manual_seed(0)
    y = DropPath(0.25)(torch.ones(2000, 3, 2, 2))
    values = y.flatten(1)
    assert bool((values == values[:, :1]).all())
    torch.testing.assert_close(values[:, 0].unique(), torch.tensor([0, 4 / 3]))
    # deviation of a mean of 2000 draws: 0.013
    assert float(y.mean()) == pytest.approx(1, abs=0.05)


def test_type_stays_and_evaluation_does_nothing() -> None:
    x = torch.randn(4, 3, 5, dtype=torch.bfloat16)
    layer = DropPath(0.5)
    assert layer(x).dtype == torch.bfloat16
    assert layer.eval()(x) is x
    assert DropPath(0.0).train()(x) is x


@pytest.mark.parametrize("chance", [-0.1, 1.0])
def test_chance_out_of_range_is_refused(chance: float) -> None:
    with pytest.raises(ValueError, match="drop path"):
        DropPath(chance)
