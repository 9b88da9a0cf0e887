"""Optimisers by name, with the defaults of the published recipes."""

from __future__ import annotations

from collections.abc import Iterable

import torch

OPTIMIZERS = ("sgd", "adamw", "radam")


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter],
    optimizer: str = "adamw",
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    momentum: float = 0.99,
) -> torch.optim.Optimizer:
    """Build an optimiser.

    Args:
        parameters: what to train.
        optimizer: `sgd` (Nesterov), `adamw`, or `radam` (decoupled weight decay).
        learning_rate: peak learning rate.
        weight_decay: coupled for `sgd`, decoupled for the others.
        momentum: of `sgd`.

    Raises:
        ValueError: the name is unknown.
    """
    if optimizer == "sgd":
        return torch.optim.SGD(parameters, learning_rate, momentum, weight_decay=weight_decay, nesterov=momentum > 0)
    if optimizer == "adamw":
        return torch.optim.AdamW(parameters, learning_rate, weight_decay=weight_decay)
    if optimizer == "radam":
        return torch.optim.RAdam(parameters, learning_rate, weight_decay=weight_decay, decoupled_weight_decay=True)
    raise ValueError(f"optimizer must be one of {OPTIMIZERS}, got {optimizer!r}")
