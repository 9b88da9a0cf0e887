"""Means of several networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_ext.networks.ensemble import ProbabilityMean, SigmoidMean


@pytest.mark.parametrize(("mean", "act"), [(ProbabilityMean, lambda x: x.softmax(1)), (SigmoidMean, torch.sigmoid)])
def test_activation_of_the_mean_is_the_mean_of_activations(mean: type[nn.Module], act: object) -> None:
    torch.manual_seed(0)
    networks = [nn.Linear(5, 3) for _ in range(3)]
    for network in networks:
        network.weight.data *= 20  # sigmoids next to 0 and 1
    x = torch.randn(7, 5)
    expected = torch.stack([act(network(x)) for network in networks]).mean(0)  # type: ignore[operator]
    found = mean(networks)(x)
    assert found.isfinite().all()
    torch.testing.assert_close(act(found), expected, atol=1e-6, rtol=1e-5)  # type: ignore[operator]


def test_no_network_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        SigmoidMean([])
