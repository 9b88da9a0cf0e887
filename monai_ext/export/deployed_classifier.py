"""A classifier as it is deployed: values of image files in, probabilities out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class DeployedClassifier(nn.Module):
    """Normalisation, network, temperature and softmax or sigmoid as one module.

    It can be scripted, traced and exported to ONNX where the network can.

    Args:
        network: `[B, C, *S]` float32 to logits `[B, K]`.
        mean, std: per channel, of values scaled to 0 to 1.
        value_range: values that become 0 and 1.
        multi_label: sigmoid instead of softmax.
        probabilities: False gives logits.
        temperature: logits are divided by it (Guo et al., ICML 2017).
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        value_range: tuple[float, float] = (0.0, 255.0),
        multi_label: bool = False,
        probabilities: bool = True,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        low, high = value_range
        deviations = torch.tensor(std, dtype=torch.float64)
        means = torch.tensor(mean, dtype=torch.float64)
        # one multiplication and one addition instead of two each
        self.register_buffer("scale", (1 / ((high - low) * deviations)).float())
        self.register_buffer("shift", ((-low / (high - low) - means) / deviations).float())
        self.network = network
        self.multi_label = multi_label
        self.probabilities = probabilities
        self.temperature = float(temperature)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map `[B, C, *S]`, uint8 or any float type, to `[B, K]` float32."""
        shape = [1, -1] + [1] * (image.dim() - 2)
        x = image.to(torch.float32) * self.scale.reshape(shape) + self.shift.reshape(shape)  # type: ignore[operator]
        y = self.network(x)
        if self.temperature != 1.0:
            y = y / self.temperature
        if not self.probabilities:
            return y
        return torch.sigmoid(y) if self.multi_label else torch.softmax(y, dim=1)
