"""Inputs of `batch_norm_act`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from monai_ext.ops.batch_norm_act import NAME, reference
from monai_ext.ops.case import Case, channels_last, strided

SUMS = "gradients of weight and bias are sums of many terms of both signs, which torch in float32 leaves 1e-5 off"
ROUNDED = "bfloat16 keeps 8 bits: inputs are exact in it, the output and both gradients are rounded"
KINK = 1e-4  # nearer to the kink of the ReLU rounding would decide about the gradient: nothing is left there


def _make(
    shape: Sequence[int],
    relu: bool = True,
    residual: bool = False,
    given: bool = False,
    dtype: torch.dtype = torch.float32,
    layout: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    offset: float = 0.0,
    scale: float = 1.0,
) -> Callable[[torch.Generator], tuple[Any, ...]]:
    def make(random: torch.Generator) -> tuple[Any, ...]:
        def values() -> torch.Tensor:
            return (torch.randn(tuple(shape), generator=random) * scale + offset).to(dtype)

        channels = shape[1]
        x, added = values(), values() if residual else None
        weight, bias = 0.5 + torch.rand(channels, generator=random), torch.randn(channels, generator=random)
        mean = var = None
        if given:
            mean = torch.randn(channels, generator=random) * scale + offset
            var = (0.5 + torch.rand(channels, generator=random)) * scale**2
        if x.numel() and relu:
            wide = None if added is None else added.float()
            before, _, _ = reference.batch_norm_act(x.float(), weight, bias, mean, var, wide, 1e-5, False)
            x = torch.where(before.abs() < KINK * max(1.0, scale if residual else 1.0), x + 0.05 * scale, x)
        added = None if added is None else layout(added).detach().requires_grad_()
        x, weight, bias = (t.detach().requires_grad_() for t in (layout(x), weight, bias))
        return x, weight, bias, mean, var, added, 1e-5, relu

    return make


def _constant(random: torch.Generator) -> tuple[Any, ...]:
    x = torch.full((2, 3, 4, 5), 3.25).requires_grad_()
    return x, torch.rand(3, generator=random), torch.randn(3, generator=random)


def _not_a_number(random: torch.Generator) -> tuple[Any, ...]:
    """In one channel, and with a residual in another: the ReLU hands a NaN on."""
    x, added = (torch.randn((2, 3, 4, 5), generator=random) for _ in range(2))
    x[0, 1, 2, 3] = torch.nan
    added[1, 0, 0, 0] = torch.nan
    return x, torch.ones(3), torch.zeros(3), None, None, added


def _outlier(random: torch.Generator) -> tuple[Any, ...]:
    """First of its channel, where the shift that keeps sums of squares small is taken from."""
    x = torch.randn((2, 17, 16, 19), generator=random)
    x[0, :, 0, 0] = 1e3
    return x, torch.ones(17), torch.zeros(17)


def _bytes(values: int, size: int, tensors: int = 5) -> int:
    """Forward reads x and writes y, backward reads x and dy and writes dx: the passes that nothing can spare.

    A residual adds its reading, that of y backward, and its gradient.
    """
    return values * size * tensors


LARGE, HALF, MIDDLE = 8 * 128 * 56 * 56, 4 * 128 * 56 * 56, 8 * 256 * 28 * 28
DEEP, NARROW = 8 * 512 * 14 * 14, 16 * 32 * 56 * 56
TRAINING = "se_resnext101 at 224 px, batch 8"
FEWER = "se_resnext101 at 224 px, batch 4"

CASES = [
    Case("2d", NAME, _make((3, 5, 17, 13)), probe=True),
    Case("2d_channels_last", NAME, _make((3, 5, 17, 13), layout=channels_last), probe=True),
    Case("3d", NAME, _make((2, 5, 7, 6, 9))),
    Case("3d_channels_last", NAME, _make((2, 20, 4, 6, 5), layout=channels_last)),
    Case("1d", NAME, _make((2, 3, 37))),
    Case("no_positions", NAME, _make((9, 7))),
    Case("one_sample", NAME, _make((1, 3, 5, 7))),
    Case("one_position", NAME, _make((6, 20, 1, 1))),
    Case("one_position_channels_last", NAME, _make((6, 20, 1, 1), layout=channels_last)),
    Case("one_channel", NAME, _make((2, 1, 8, 8), layout=channels_last)),
    Case("three_values", NAME, _make((3, 3, 1), relu=False), tolerance=1e-5,
         why="the terms of the gradient of x nearly cancel"),
    Case("linear", NAME, _make((2, 4, 9, 11), relu=False)),
    Case("linear_residual", NAME, _make((2, 4, 9, 11), relu=False, residual=True)),
    Case("residual", NAME, _make((2, 6, 5, 7), residual=True), probe=True),
    Case("residual_channels_last", NAME, _make((2, 37, 5, 7), residual=True, layout=channels_last), probe=True),
    Case("given", NAME, _make((2, 6, 5, 7), given=True), probe=True),
    Case("given_channels_last", NAME, _make((2, 37, 5, 7), given=True, layout=channels_last), probe=True),
    Case("given_residual", NAME, _make((2, 6, 5, 7), given=True, residual=True)),
    Case("given_residual_channels_last", NAME,
         _make((2, 37, 5, 7), given=True, residual=True, layout=channels_last)),
    Case("given_linear_residual", NAME, _make((2, 6, 5, 7), given=True, residual=True, relu=False)),
    Case("given_one_value", NAME, _make((1, 3, 1, 1), given=True)),
    Case("empty_batch", NAME, _make((0, 3, 4, 4), given=True)),
    Case("not_contiguous", NAME, _make((2, 3, 6, 5), layout=strided, residual=True)),
    Case("several_pieces", NAME, _make((2, 1, 97, 131)), tolerance=2e-5, why=SUMS),
    Case("several_pieces_channels_last", NAME, _make((2, 18, 11, 21), residual=True, layout=channels_last),
         tolerance=2e-5, why=SUMS),
    Case("blocks_of_channels", NAME, _make((3, 70, 5, 7), residual=True)),
    Case("many_channels_last", NAME, _make((2, 147, 3, 5), layout=channels_last)),
    Case("constant", NAME, _constant, tolerance=1e-5, why="1 / sqrt(eps) multiplies rounding by 316"),
    Case("nan", NAME, _not_a_number),
    Case("outlier", NAME, _outlier, tolerance=1e-5, why="the float32 reference sums values of 1e3 with those of 1"),
    Case("outlier_channels_last", NAME,
         lambda random: (channels_last(_outlier(random)[0]), torch.ones(17), torch.zeros(17)), tolerance=1e-5,
         why="the float32 reference sums values of 1e3 with those of 1"),
    Case("large_offset", NAME, _make((2, 3, 16, 16), offset=1e4), tolerance=1e-3,
         why="x itself is rounded to 1e4 * 6e-8 = 6e-4 of its deviation; the float64 result has the same inputs"),
    Case("large_values", NAME, _make((2, 3, 8, 8), scale=1e15)),
    Case("bfloat16", NAME, _make((2, 5, 7, 6), dtype=torch.bfloat16), tolerance=6e-3, why=ROUNDED),
    Case("bfloat16_residual", NAME, _make((2, 5, 7, 6), residual=True, dtype=torch.bfloat16), tolerance=6e-3,
         why=ROUNDED),
    Case("bfloat16_channels_last", NAME,
         _make((2, 37, 7, 6), residual=True, dtype=torch.bfloat16, layout=channels_last), tolerance=6e-3, why=ROUNDED),
    Case("bfloat16_given", NAME, _make((2, 37, 7, 6), given=True, dtype=torch.bfloat16, layout=channels_last),
         tolerance=6e-3, why=ROUNDED),
    Case("float16", NAME, _make((2, 5, 7, 6), dtype=torch.float16), tolerance=1e-3, why="float16 keeps 11 bits"),
    Case("stage_1", NAME, _make((8, 128, 56, 56), layout=channels_last), TRAINING, 2e-5, _bytes(LARGE, 4), SUMS),
    Case("stage_1_contiguous", NAME, _make((4, 128, 56, 56)), FEWER, 2e-5, _bytes(HALF, 4), SUMS),
    Case("stage_1_bfloat16", NAME, _make((4, 128, 56, 56), dtype=torch.bfloat16, layout=channels_last),
         f"{FEWER}, amp", 6e-3, _bytes(HALF, 2), ROUNDED),
    Case("stage_2_residual", NAME, _make((8, 256, 28, 28), residual=True, layout=channels_last), TRAINING, 2e-5,
         _bytes(MIDDLE, 4, 8), SUMS),
    Case("stage_3", NAME, _make((8, 512, 14, 14), layout=channels_last), TRAINING, 2e-5, _bytes(DEEP, 4), SUMS),
    Case("stage_3_contiguous", NAME, _make((8, 512, 14, 14)), TRAINING, 2e-5, _bytes(DEEP, 4), SUMS),
    Case("stage_3_frozen", NAME, _make((8, 512, 14, 14), given=True, layout=channels_last),
         f"{TRAINING}, frozen statistics", 2e-5, _bytes(DEEP, 4), SUMS),
    Case("narrow", NAME, _make((16, 32, 56, 56), layout=channels_last), "se_resnext101 of 16 base features, batch 16",
         2e-5, _bytes(NARROW, 4), SUMS),
]  # fmt: skip
