"""Optimisers by name, with the defaults of the published recipes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from monai_ext.errors import InputError

OPTIMIZERS = ("sgd", "adam", "adamw", "adam_l2", "radam")


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]],
    optimizer: str = "adamw",
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    momentum: float = 0.99,
    nesterov: bool = True,
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """Build an optimiser.

    nnU-Net v2 trains with `sgd`, momentum 0.99, Nesterov and weight decay 3e-5 on every parameter. The nnU-Net of
    NVIDIA DeepLearningExamples (2021) trains with `radam`; its `adam` is AdamW, its `sgd` has neither Nesterov nor
    weight decay.

    On CUDA `sgd` and `adamw` update all parameters in one fused kernel; `radam`, which has none, in few grouped ones.

    Args:
        parameters: what to train, or groups of it (`parameter_groups`) whose own values go before those below.
        optimizer: `sgd`, `adamw` (`adam` is the same), `adam_l2` (weight decay as a term of the loss, as Keras has it)
            or `radam` (Liu et al. 2020, with decoupled weight decay).
        learning_rate: peak learning rate.
        weight_decay: coupled for `sgd` and `adam_l2`, decoupled for the others.
        momentum: of `sgd`.
        nesterov: look ahead along the momentum of `sgd`; without effect where there is none.
        eps: added to the root of the second moment; 1e-7 is the default of Keras.

    Raises:
        InputError: the name is unknown.
    """
    trained: list[Any] = [
        {**given, "params": list(given["params"])} if isinstance(given, dict) else given for given in parameters
    ]
    flat = [p for given in trained for p in (given["params"] if isinstance(given, dict) else [given])]
    on_cuda = bool(flat) and all(p.is_cuda for p in flat)
    fused = True if on_cuda else None  # None leaves the choice to PyTorch
    if optimizer == "sgd":
        ahead = nesterov and momentum > 0
        return torch.optim.SGD(trained, learning_rate, momentum, weight_decay=weight_decay, nesterov=ahead, fused=fused)
    if optimizer in ("adam", "adamw"):
        return torch.optim.AdamW(trained, learning_rate, eps=eps, weight_decay=weight_decay, fused=fused)
    if optimizer == "adam_l2":
        return torch.optim.Adam(trained, learning_rate, eps=eps, weight_decay=weight_decay, fused=fused)
    if optimizer == "radam":
        return torch.optim.RAdam(
            trained,
            learning_rate,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=True,
            foreach=True if on_cuda else None,
        )
    raise InputError(f"--optimizer {optimizer!r}: is not known. Cure: one of {', '.join(OPTIMIZERS)}")
