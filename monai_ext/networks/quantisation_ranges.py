"""Ranges of values and what rounding to 8 bits within them does; all of it for 8-bit integers, computed in float."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

WEIGHT_LEVELS = 127  # of 128: -128 stays unused, so that every weight has its negative
SMALLEST_STEP = 1e-8  # of values that are all zero; large enough for float32 to divide by


class ObservedRange(nn.Module):
    """Rounds to 8 bits in steps of a range observed in training.

    The range always holds zero, which is a level of its own, so that padding stays exact. While not `active`, and
    before anything was observed, values pass unchanged. In training the range moves with every batch; processes that
    train together share the range of the first one, as DistributedDataParallel does with all buffers.

    Args:
        symmetric: levels -128 to 127 with zero in the middle; otherwise 0 to 255 over the range as it is, which suits
            inputs after a ReLU.
        momentum: weight of the newest batch in the moving average.
    """

    low: torch.Tensor
    high: torch.Tensor
    batches: torch.Tensor

    def __init__(self, symmetric: bool = True, momentum: float = 0.01) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.momentum = momentum
        self.active = False
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self._is_observed = False

    @property
    def levels(self) -> tuple[int, int]:
        """Smallest and largest integer."""
        return (-128, 127) if self.symmetric else (0, 255)

    def is_observed(self) -> bool:
        """Whether a batch has been seen; asks the device only until the answer is yes."""
        self._is_observed = self._is_observed or bool(self.batches > 0)
        return self._is_observed

    @torch.no_grad()
    def observe(self, x: torch.Tensor) -> None:
        """Move the range towards the extremes of a batch; the first batch sets it."""
        low, high = torch.aminmax(x.detach())
        weight = torch.where(self.batches == 0, 1.0, self.momentum)
        self.low.lerp_(low.float().clamp(max=0), weight)
        self.high.lerp_(high.float().clamp(min=0), weight)
        self.batches += 1

    def step_and_zero(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Size of a step (float32 scalar) and the level that is zero (int32 scalar)."""
        if self.symmetric:
            step = torch.maximum(-self.low, self.high) / 127
            return step.clamp(min=SMALLEST_STEP), torch.zeros_like(self.batches, dtype=torch.int32)
        step = ((self.high - self.low) / 255).clamp(min=SMALLEST_STEP)
        return step, torch.round(-self.low / step).clamp(0, 255).to(torch.int32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape, float16, bfloat16 or float32; float32 where it rounds, otherwise x itself."""
        if self.training:
            self.observe(x)
        if not self.active or not self.is_observed():
            return x
        step, zero = self.step_and_zero()
        return torch.fake_quantize_per_tensor_affine(x.float(), step, zero, *self.levels)

    def get_extra_state(self) -> torch.Tensor:
        # a tensor, because averages of weights and files loaded with weights_only know nothing else
        return torch.tensor([self.active, self.symmetric], dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.active, self.symmetric = (bool(value) for value in state.tolist())

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """A file trained without quantisation has no ranges; they are then observed from here on."""
        self._is_observed = False
        if f"{prefix}low" in state_dict:
            super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        kind = "symmetric" if self.symmetric else "asymmetric"
        return f"{kind}, {'active' if self.active else 'observing'}"


class FixedRange(nn.Module):
    """Rounds to 8 bits in steps that no longer change; TorchScript and ONNX take it as constants.

    Args:
        step: size of a step.
        zero: the level that is zero.
        symmetric: levels -128 to 127, otherwise 0 to 255.
    """

    def __init__(self, step: float, zero: int, symmetric: bool) -> None:
        super().__init__()
        self.step = float(step)
        self.zero = int(zero)
        self.lowest = -128 if symmetric else 0
        self.highest = 127 if symmetric else 255

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fake_quantize_per_tensor_affine(x, self.step, self.zero, self.lowest, self.highest)


def weight_steps(weight: torch.Tensor) -> torch.Tensor:
    """Size of a step per output channel `[C_out]` float32 of a weight `[C_out, C_in, *K]`."""
    return (weight.detach().float().flatten(1).abs().amax(1) / WEIGHT_LEVELS).clamp(min=SMALLEST_STEP)


def rounded_weight(weight: torch.Tensor) -> torch.Tensor:
    """The weight in steps of its largest value per output channel; the gradient passes unchanged."""
    steps = weight_steps(weight)
    zeros = torch.zeros(len(steps), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight, steps, zeros, 0, -128, 127)
