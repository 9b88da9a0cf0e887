"""Inputs of `se_gate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch

from monai_ext.ops.case import Case, channels_last, strided
from monai_ext.ops.se_gate import reference

SUMS = "gradients of layers and norm are sums of many terms of both signs, which torch in float32 leaves 1e-5 off"
ROUNDED = "bfloat16 keeps 8 bits: inputs are exact in it, the output and the gradients of x and residual are rounded"
CONSTANT = "1 / sqrt(eps) multiplies rounding by 316"
ROWS = (
    "torch's own batch norm adds the rows of channels last one after another, and is 1e-4 off; test_se_gate asks more"
)


def _make(
    shape: Sequence[int],
    hidden: int = 4,
    residual: bool = True,
    norm: bool = True,
    training: bool = True,
    relu: bool = True,
    dtype: torch.dtype = torch.float32,
    layout: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    offset: float = 0.0,
    scale: float = 1.0,
    change: Callable[[torch.Tensor], None] | None = None,
    differentiated: bool = True,
) -> Callable[[torch.Generator], tuple[Any, ...]]:
    def make(random: torch.Generator) -> tuple[Any, ...]:
        def values(*size: int) -> torch.Tensor:
            return torch.randn(size, generator=random)

        channels = shape[1]
        x = values(*shape)
        x = x.mul_(scale).add_(offset).to(dtype)
        if change is not None:
            change(x)
        added = values(*shape).to(dtype) if residual else None
        weights = [values(hidden, channels) / channels**0.5, values(hidden), values(channels, hidden) / hidden**0.5]
        weights.append(values(channels))
        norms: list[torch.Tensor | None] = [None] * 4
        if norm:
            norms = [0.5 + torch.rand(channels, generator=random), values(channels)]
            norms += [
                offset + 0.1 * scale * values(channels),
                scale**2 * (0.5 + torch.rand(channels, generator=random)),
            ]
        if 0 in shape:
            return x, *weights, added, *norms, 1e-5, training, relu
        if relu and added is not None and differentiated:
            # at the kink of the activation rounding would decide about the gradient: nothing is left there
            call: tuple[Any, ...] = (x, *weights, added, *norms, 1e-5, training, False)
            before = reference.se_gate(*call)[0]
            added = torch.where(before.abs() < 1e-3, added + 0.05, added)
        tensors = [layout(x), *weights, None if added is None else layout(added), *norms[:2]]
        if differentiated:
            tensors = [None if t is None else t.detach().requires_grad_() for t in tensors]
        return *tensors, *norms[2:], 1e-5, training, relu

    return make


def _constant_channel(x: torch.Tensor) -> None:
    x[:, 1] = 3.25


def _not_a_number(x: torch.Tensor) -> None:
    x[0, 1, 2, 3] = torch.nan


def _block(
    batch: int, channels: int, size: int, hidden: int, dtype: torch.dtype = torch.float32, last: bool = True
) -> Callable[[torch.Generator], tuple[Any, ...]]:
    """A training step's block of SE-ResNeXt101 at 224 pixels."""
    layout = channels_last if last else torch.Tensor.contiguous
    return _make((batch, channels, size, size), hidden, dtype=dtype, layout=layout)


def _folded(batch: int, channels: int, size: int, hidden: int) -> Callable[[torch.Generator], tuple[Any, ...]]:
    """The same block when images are classified: its norm is part of the convolution."""
    shape = (batch, channels, size, size)
    return _make(shape, hidden, norm=False, training=False, layout=channels_last, differentiated=False)


def _trained(*shape: int, size: int = 4) -> int:
    """Forward reads x and the residual and writes y; backward reads x, y and dy and writes dx and the residual's
    gradient: the passes that nothing can spare."""
    return 8 * size * prod(shape)


def _applied(*shape: int) -> int:
    """x and the residual are read, y is written."""
    return 3 * 4 * prod(shape)


CASES = [
    Case("2d", "se_gate", _make((3, 6, 7, 9)), probe=True),
    Case("2d_channels_last", "se_gate", _make((3, 6, 7, 9), layout=channels_last), probe=True),
    Case("3d", "se_gate", _make((2, 5, 4, 6, 3))),
    Case("3d_channels_last", "se_gate", _make((2, 5, 4, 6, 3), layout=channels_last)),
    Case("1d", "se_gate", _make((2, 7, 37))),
    Case("inference", "se_gate", _make((3, 6, 7, 9), training=False), probe=True),
    Case("inference_channels_last", "se_gate", _make((3, 6, 7, 9), training=False, layout=channels_last), probe=True),
    Case("folded", "se_gate", _make((3, 6, 7, 9), norm=False, training=False)),
    Case("folded_channels_last", "se_gate", _make((3, 6, 7, 9), norm=False, training=False, layout=channels_last)),
    Case("folded_in_training", "se_gate", _make((3, 6, 7, 9), norm=False)),
    Case("no_residual", "se_gate", _make((2, 6, 5, 7), residual=False)),
    Case("no_residual_channels_last", "se_gate", _make((2, 6, 5, 7), residual=False, layout=channels_last)),
    Case("no_relu", "se_gate", _make((2, 6, 5, 7), relu=False)),
    Case("no_relu_channels_last", "se_gate", _make((2, 6, 5, 7), relu=False, layout=channels_last)),
    Case("neither", "se_gate", _make((2, 6, 5, 7), residual=False, relu=False, training=False)),
    Case("not_contiguous", "se_gate", _make((2, 3, 6, 5), layout=strided)),
    Case("one_sample", "se_gate", _make((1, 8, 6, 5), layout=channels_last)),
    Case("one_position", "se_gate", _make((6, 8, 1, 1))),
    Case("one_channel", "se_gate", _make((2, 1, 8, 8), hidden=1)),
    Case("one_hidden", "se_gate", _make((2, 9, 5, 5), hidden=1)),
    Case("many_channels", "se_gate", _make((2, 150, 3, 4), hidden=19), tolerance=1e-5, why=SUMS),
    Case("many_channels_last", "se_gate", _make((2, 150, 3, 4), hidden=19, layout=channels_last), tolerance=1e-5,
         why=SUMS),
    Case("several_chunks", "se_gate", _make((2, 2, 97, 61)), tolerance=2e-5, why=SUMS),
    Case("several_chunks_channels_last", "se_gate", _make((2, 3, 97, 61), layout=channels_last), tolerance=2e-4,
         why=ROWS),
    Case("empty_batch", "se_gate", _make((0, 3, 4, 4), training=False)),
    Case("constant_channel", "se_gate", _make((2, 3, 4, 5), change=_constant_channel), tolerance=3e-5, why=CONSTANT),
    Case("nan", "se_gate", _make((2, 3, 4, 5), change=_not_a_number)),
    Case("nan_inference", "se_gate", _make((2, 3, 4, 5), training=False, change=_not_a_number)),
    Case("large_offset", "se_gate", _make((2, 3, 16, 16), offset=1e4), tolerance=1e-2,
         why="torch rounds the mean to 6e-4 of the deviation, and the gate's gradient multiplies that"),
    Case("large_values", "se_gate", _make((2, 3, 8, 8), scale=1e15)),
    Case("bfloat16", "se_gate", _make((2, 5, 7, 9), dtype=torch.bfloat16), tolerance=6e-3, why=ROUNDED),
    Case("bfloat16_channels_last", "se_gate", _make((2, 40, 7, 3), dtype=torch.bfloat16, layout=channels_last),
         tolerance=6e-3, why=ROUNDED),
    Case("bfloat16_inference", "se_gate",
         _make((2, 40, 7, 3), dtype=torch.bfloat16, training=False, layout=channels_last), tolerance=6e-3,
         why=ROUNDED),
    Case("float16", "se_gate", _make((2, 5, 7, 6), dtype=torch.float16), tolerance=1e-3, why="float16 keeps 11 bits"),
    Case("stage_1", "se_gate", _block(8, 256, 56, 16), "se_resnext101 at 224, batch 8", 2e-4, _trained(8, 256, 56, 56),
         ROWS),
    Case("stage_2_bfloat16", "se_gate", _block(8, 512, 28, 32, torch.bfloat16), "se_resnext101 at 224, batch 8, amp",
         6e-3, _trained(8, 512, 28, 28, size=2), ROUNDED),
    Case("stage_3", "se_gate", _block(8, 1024, 14, 64), "se_resnext101 at 224, batch 8", 2e-4,
         _trained(8, 1024, 14, 14), ROWS),
    Case("stage_3_contiguous", "se_gate", _block(8, 1024, 14, 64, last=False), "se_resnext101 at 224, batch 8", 2e-5,
         _trained(8, 1024, 14, 14), SUMS),
    Case("stage_4", "se_gate", _block(8, 2048, 7, 128), "se_resnext101 at 224, batch 8", 2e-5, _trained(8, 2048, 7, 7),
         SUMS),
    Case("narrow", "se_gate", _block(32, 64, 24, 4), "small classifier at 96, batch 32", 2e-4, _trained(32, 64, 24, 24),
         ROWS),
    Case("stage_1_folded", "se_gate", _folded(1, 256, 56, 16), "se_resnext101 at 224, one image", 2e-5,
         _applied(1, 256, 56, 56), SUMS),
    Case("stage_3_folded", "se_gate", _folded(1, 1024, 14, 64), "se_resnext101 at 224, one image", 2e-5,
         _applied(1, 1024, 14, 14), SUMS),
    Case("stage_2_folded_8", "se_gate", _folded(8, 512, 28, 32), "se_resnext101 at 224, 8 images", 2e-5,
         _applied(8, 512, 28, 28), SUMS),
]  # fmt: skip
