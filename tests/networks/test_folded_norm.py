"""Folding: the same outputs from a network without norms, and no norm folded that must not be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.blocks.convolutions import Convolution
from torch import nn

from monai_ext.networks.folded_norm import fold_norms
from small_classifier import small, with_statistics


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"se_ratio": 0}, {"fused": False}])
def test_outputs_stay_and_norms_go(dims: int, options: dict[str, Any]) -> None:
    network = with_statistics(small(dims, **options)).eval()
    folded = fold_norms(network)
    image = torch.randn(2, 1, *(32,) * dims)
    with torch.no_grad():
        # float32 through 5 blocks, once with rounded products of weights
        torch.testing.assert_close(folded(image), network(image), rtol=1e-4, atol=1e-4)
    assert not any("BatchNorm" in type(m).__name__ for m in folded.modules())
    assert any("BatchNorm" in type(m).__name__ for m in network.modules())
    assert folded.layer1[0].conv1.conv.bias is not None
    assert network.layer1[0].conv1.conv.bias is None


def test_folded_network_is_scriptable_and_has_gradients() -> None:
    folded = fold_norms(with_statistics(small()))
    image = torch.randn(1, 1, 32, 32, requires_grad=True)
    torch.testing.assert_close(torch.jit.script(folded)(image), folded(image), rtol=1e-4, atol=1e-4)
    folded(image).sum().backward()
    assert float(image.grad.abs().sum()) > 0


def test_training_network_is_folded_as_in_evaluation() -> None:
    network = with_statistics(small())
    folded = fold_norms(network)
    assert network.training
    assert not folded.training
    image = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(folded(image), network.eval()(image), rtol=1e-4, atol=1e-4)


def test_norm_behind_the_activation_or_without_statistics_stays() -> None:
    behind = Convolution(2, 1, 2, adn_ordering="AN", act="relu", norm="batch")
    assert isinstance(fold_norms(behind).adn.N, nn.BatchNorm2d)
    own = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))
    assert isinstance(fold_norms(own)[1], nn.BatchNorm2d)
    between = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.BatchNorm2d(2))
    assert isinstance(fold_norms(between)[2], nn.BatchNorm2d)
