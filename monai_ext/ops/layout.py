"""Memory layouts that the kernels of norms and gates read: contiguous, or channels last."""

from __future__ import annotations

import torch


def channels_last_format(x: torch.Tensor) -> torch.memory_format | None:
    """The channels-last format of `x`; None where it is contiguous (too) or in neither."""
    if x.is_contiguous():
        return None
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    wanted = formats.get(x.ndim)
    return wanted if wanted is not None and x.is_contiguous(memory_format=wanted) else None


def dense(x: torch.Tensor) -> torch.Tensor:
    """`x` itself if contiguous or channels last, else a contiguous copy."""
    return x if channels_last_format(x) is not None else x.contiguous()


def laid_out_like(value: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`value` in the layout of `x`, which is contiguous or channels last; a copy only where it differs."""
    wanted = channels_last_format(x)
    return value.contiguous() if wanted is None else value.contiguous(memory_format=wanted)
