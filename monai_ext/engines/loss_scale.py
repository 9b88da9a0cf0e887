"""Static loss scaling for float16, as recipes for GPUs without bfloat16 have it."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events


class LossScale:
    """Replaces the dynamic loss scale of a trainer in mixed precision by a constant.

    A step whose gradients are not finite is left out, as with the dynamic scale. Trainers without a scaler (no mixed
    precision, or not on CUDA) are left alone.

    Args:
        loss_scale: factor of the loss; 0 leaves the dynamic scale.
        device: kind of device that is trained on.
    """

    def __init__(self, loss_scale: float = 0.0, device: str = "cuda") -> None:
        self.loss_scale = loss_scale
        self.device = device

    def attach(self, engine: Engine) -> None:
        if self.loss_scale > 0:
            engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Any) -> None:
        if engine.scaler is not None:
            engine.scaler = static_scaler(self.loss_scale, engine.scaler.is_enabled(), self.device)


def static_scaler(loss_scale: float, enabled: bool = True, device: str = "cuda") -> torch.amp.GradScaler:
    """A scaler whose factor stays within a millionth of `loss_scale` per skipped step.

    PyTorch's scaler knows no constant: growth never comes due, and what an overflow takes away is next to nothing.
    """
    return torch.amp.GradScaler(
        device, init_scale=loss_scale, growth_interval=2**31 - 1, backoff_factor=1 - 1e-6, enabled=enabled
    )
