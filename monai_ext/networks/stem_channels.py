"""First convolution of a trained network for images of another number of channels."""

from __future__ import annotations

import torch


def stem_for_channels(weight: torch.Tensor, channels: int) -> tuple[torch.Tensor, str]:
    """Weights of a convolution that answers images of other channels in about the same strength.

    To 1 channel: the sum over the channels, which gives a grey image exactly what the former network gave its copy in
    every channel (normalised alike). From 1 channel to n: 1/n of it each. From m to n: the channels in turn, repeated
    or left out, times m / n.

    Args:
        weight: `[F, m, *kernel]`.
        channels: n.

    Returns:
        `[F, n, *kernel]` and what was done, empty if nothing.
    """
    given = weight.shape[1]
    if given == channels:
        return weight, ""
    if channels == 1:
        # in float32: half-precision files would round the sum
        return weight.float().sum(1, keepdim=True), f"{given} channels summed to 1"
    scale = given / channels
    turn = torch.arange(channels) % given
    return weight.float()[:, turn] * scale, f"{given} channels in turn for {channels}, times {scale:.3g}"
