"""Inputs of ops, described once for the tests and the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """One call of an op.

    Attributes:
        name: what is special about it.
        function: public function of the op's package that is called; it returns a tensor or a tuple of tensors. One
            that works in place returns the tensor that it changed.
        make: maps a generator (on the CPU) to the positional arguments, tensors on the CPU. Floating tensors with
            `requires_grad` are differentiated.
        recipe: which recipe calls it with this size; only such cases are timed. Empty: a test only.
        tolerance: largest difference from float64, as a fraction of the largest magnitude of the expected tensor.
        traffic: bytes that must move between memory and processor in one call (and its gradient), for the copy rate.
        why: reason of a tolerance other than the default.
        probe: run at the first use on a machine, before the form is trusted; small.
    """

    name: str
    function: str
    make: Callable[[torch.Generator], tuple[Any, ...]]
    recipe: str = ""
    tolerance: float = 2e-6
    traffic: int = 0
    why: str = ""
    probe: bool = False


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """The same values channels last in memory, `[B, C, H, W]` or `[B, C, D, H, W]`."""
    return x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)


def strided(x: torch.Tensor) -> torch.Tensor:
    """The same values between others, so that neither layout holds."""
    wide = torch.zeros((*x.shape[:-1], 2 * x.shape[-1]), dtype=x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]
