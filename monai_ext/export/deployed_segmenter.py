"""A segmentation network as it is deployed: normalised patch in; logits, probabilities or label map out."""

from __future__ import annotations

import torch
from torch import nn

OUTPUTS = ("logits", "probabilities", "labels")


class DeployedSegmenter(nn.Module):
    """A network with the end that a server is to compute. It can be scripted, traced and exported to ONNX.

    Args:
        network: `[B, C, *S]` float32 to logits `[B, K, *S']`.
        output: `logits` and `probabilities` (softmax) are `[B, K, *S']` float32, `labels` are indices of the most
            probable class, `[B, 1, *S']` uint8.

    Raises:
        ValueError: unknown output.
    """

    __constants__ = ["output"]  # noqa: RUF012 - TorchScript's spelling; it prunes the other branches

    def __init__(self, network: nn.Module, output: str = "logits") -> None:
        super().__init__()
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
        self.network = network
        self.output = output

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """See the class."""
        logits = self.network(image)
        if self.output == "labels":
            return logits.argmax(dim=1, keepdim=True).to(torch.uint8)
        return torch.softmax(logits, dim=1) if self.output == "probabilities" else logits
