"""Inputs of `instance_norm_act`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from monai_ext.ops.case import Case, channels_last, strided
from monai_ext.ops.instance_norm_act import reference

SUMS = "gradients of weight and bias are sums of many terms of both signs, which torch in float32 leaves 1e-5 off"
ROUNDED = "bfloat16 keeps 8 bits: inputs are exact in it, the output and both gradients are rounded"


def _make(
    shape: Sequence[int],
    groups: int = 0,
    slope: float = 0.01,
    residual: bool = False,
    keep_output: bool = False,
    dtype: torch.dtype = torch.float32,
    layout: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    offset: float = 0.0,
    scale: float = 1.0,
) -> Callable[[torch.Generator], tuple[Any, ...]]:
    def make(random: torch.Generator) -> tuple[Any, ...]:
        def values() -> torch.Tensor:
            return (torch.randn(tuple(shape), generator=random) * scale + offset).to(dtype)

        channels = shape[1]
        weight, bias = 0.5 + torch.rand(channels, generator=random), torch.randn(channels, generator=random)
        x, added = values(), values() if residual else None
        if 0 in shape:
            return x, weight, bias, added, groups, 1e-5, slope, keep_output
        # at the kink of the activation rounding would decide about the gradient: nothing is left there
        before = reference.instance_norm_act(
            x.double(), weight, bias, None if added is None else added.double(), groups, 1e-5, 1.0
        )
        x = torch.where(before.abs() < 1e-4 * scale, x + 0.05 * scale, x)
        tensors = [layout(x), weight, bias, None if added is None else layout(added)]
        tensors = [None if t is None else t.detach().requires_grad_() for t in tensors]
        return *tensors, groups, 1e-5, slope, keep_output

    return make


def _constant(random: torch.Generator) -> tuple[Any, ...]:
    x = torch.full((2, 3, 4, 5), 3.25).requires_grad_()
    return x, torch.rand(3, generator=random), torch.randn(3, generator=random), None, 0, 1e-5, 0.01


def _not_a_number(random: torch.Generator) -> tuple[Any, ...]:
    x = torch.randn((2, 3, 4, 5), generator=random)
    x[0, 1, 2, 3] = torch.nan
    return x, torch.ones(3), torch.zeros(3), None, 0, 1e-5, 0.01


def _step(channels: int, *spatial: int, batch: int = 2, dtype: torch.dtype = torch.float32, last: bool = True) -> Any:
    layout = channels_last if last else torch.Tensor.contiguous
    return _make((batch, channels, *spatial), dtype=dtype, layout=layout)


def _bytes(values: int, size: int) -> int:
    """Forward reads x and writes y; backward reads x and dy and writes dx: the passes that nothing can spare."""
    return values * size * 5


FULL = 2 * 32 * 40 * 56 * 40
MIDDLE = 2 * 64 * 20 * 28 * 20
SLICES = 8 * 32 * 192 * 160

CASES = [
    Case("3d", "instance_norm_act", _make((2, 5, 7, 6, 9)), probe=True),
    Case("3d_channels_last", "instance_norm_act", _make((2, 5, 7, 6, 9), layout=channels_last), probe=True),
    Case("2d", "instance_norm_act", _make((3, 4, 17, 13))),
    Case("2d_channels_last", "instance_norm_act", _make((3, 4, 17, 13), layout=channels_last)),
    Case("1d", "instance_norm_act", _make((2, 3, 37))),
    Case("relu", "instance_norm_act", _make((2, 4, 9, 11), slope=0.0)),
    Case("no_activation", "instance_norm_act", _make((2, 4, 9, 11), slope=1.0)),
    Case("residual", "instance_norm_act", _make((2, 6, 5, 7, 3), residual=True), probe=True),
    Case("residual_channels_last", "instance_norm_act", _make((2, 6, 5, 7, 3), residual=True, layout=channels_last)),
    Case("groups", "instance_norm_act", _make((2, 6, 5, 7), groups=2)),
    Case("groups_channels_last", "instance_norm_act", _make((2, 6, 5, 7), groups=3, layout=channels_last)),
    Case("one_group_residual", "instance_norm_act", _make((2, 4, 5, 7), groups=1, residual=True)),
    Case("keep_output", "instance_norm_act", _make((2, 5, 7, 6, 9), keep_output=True, slope=0.1), tolerance=1e-5,
         why="the inverse divides by slope and weight"),
    Case("keep_output_residual_last", "instance_norm_act",
         _make((2, 5, 7, 6, 9), keep_output=True, residual=True, slope=0.1, layout=channels_last), tolerance=1e-5,
         why="the inverse divides by slope and weight"),
    Case("not_contiguous", "instance_norm_act", _make((2, 3, 6, 5), layout=strided, residual=True)),
    Case("several_chunks", "instance_norm_act", _make((1, 2, 97, 131)), tolerance=2e-5, why=SUMS),
    Case("several_chunks_channels_last", "instance_norm_act", _make((1, 2, 97, 331), layout=channels_last),
         tolerance=2e-5, why=SUMS),
    Case("many_channels_last", "instance_norm_act", _make((2, 50, 3, 4, 5), residual=True, layout=channels_last)),
    Case("many_channels_last_keep_output", "instance_norm_act",
         _make((2, 50, 3, 4, 5), residual=True, keep_output=True, slope=0.1, layout=channels_last), tolerance=1e-5,
         why="the inverse divides by slope and weight"),
    Case("many_channels_last_bfloat16", "instance_norm_act",
         _make((2, 50, 3, 4, 5), dtype=torch.bfloat16, layout=channels_last), tolerance=6e-3, why=ROUNDED),
    Case("one_channel", "instance_norm_act", _make((2, 1, 8, 8))),
    Case("empty_batch", "instance_norm_act", _make((0, 3, 4, 4))),
    Case("constant", "instance_norm_act", _constant, tolerance=1e-5, why="1 / sqrt(eps) multiplies rounding by 316"),
    Case("nan", "instance_norm_act", _not_a_number),
    Case("large_offset", "instance_norm_act", _make((2, 3, 16, 16), offset=1e4), tolerance=3e-4,
         why="x itself is rounded to 1e4 * 6e-8 = 6e-4 of its deviation; the float64 result has the same inputs"),
    Case("large_values", "instance_norm_act", _make((2, 3, 8, 8), scale=1e15)),
    Case("bfloat16", "instance_norm_act", _make((2, 5, 7, 6, 9), dtype=torch.bfloat16), tolerance=6e-3, why=ROUNDED),
    Case("bfloat16_channels_last", "instance_norm_act",
         _make((2, 5, 7, 6, 9), dtype=torch.bfloat16, layout=channels_last), tolerance=6e-3, why=ROUNDED),
    Case("float16", "instance_norm_act", _make((2, 5, 7, 6), dtype=torch.float16), tolerance=1e-3,
         why="float16 keeps 11 bits"),
    Case("level_0", "instance_norm_act", _step(32, 40, 56, 40), "nnunet 3D hippocampus, batch 2", 2e-5,
         _bytes(FULL, 4), SUMS),
    Case("level_0_contiguous", "instance_norm_act", _step(32, 40, 56, 40, last=False), "nnunet 3D hippocampus, batch 2",
         2e-5, _bytes(FULL, 4), SUMS),
    Case("level_0_bfloat16", "instance_norm_act", _step(32, 40, 56, 40, dtype=torch.bfloat16),
         "nnunet 3D hippocampus, batch 2, amp", 6e-3, _bytes(FULL, 2), ROUNDED),
    Case("level_1", "instance_norm_act", _step(64, 20, 28, 20), "nnunet 3D hippocampus, batch 2", 2e-5,
         _bytes(MIDDLE, 4), SUMS),
    Case("slices", "instance_norm_act", _step(32, 192, 160, batch=8), "nnunet 2D, 8 of 64 slices", 2e-5,
         _bytes(SLICES, 4), SUMS),
]  # fmt: skip
