"""Values of image files in, probabilities out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_ext.export.deployed_classifier import DeployedClassifier


class Mean(nn.Module):
    """Logits are the channels' means."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2).mean(2)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("value_range", [(0.0, 255.0), (-1000.0, 3000.0)])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_values_are_normalised(dtype: torch.dtype, value_range: tuple[float, float], dims: int) -> None:
    mean, std = (0.5, 0.1), (0.2, 0.4)
    x = torch.randint(0, 256, (3, 2, *(5,) * dims)).to(dtype)
    low, high = value_range
    shape = (2, *(1,) * dims)
    expected = ((x.double() - low) / (high - low) - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    found = DeployedClassifier(Mean(), mean, std, value_range, probabilities=False)(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected.flatten(2).mean(2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("multi_label", [False, True])
def test_probabilities(temperature: float, multi_label: bool) -> None:
    x = torch.randn(4, 3, 2, 2)
    found = DeployedClassifier(Mean(), (0,) * 3, (1,) * 3, (0, 1), multi_label, temperature=temperature)(x)
    logits = x.mean((2, 3)) / temperature
    expected = 1 / (1 + (-logits).exp()) if multi_label else logits.exp() / logits.exp().sum(1, keepdim=True)
    torch.testing.assert_close(found, expected)


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="temperature must be above 0"):
        DeployedClassifier(Mean(), (0,), (1,), temperature=0)
