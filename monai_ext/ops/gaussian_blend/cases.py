"""Inputs of `gaussian_blend`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from monai_ext.ops.case import Case, strided

ROUNDED = "bfloat16 outputs are exact in float64 too: only sums are rounded"


def _weights(roi: Sequence[int], sigma: float = 0.125) -> list[torch.Tensor]:
    axes = [(torch.arange(size) - size // 2) / (sigma * size) for size in roi]
    return [torch.exp(-0.5 * axis**2) for axis in axes]


def _add(
    shape: Sequence[int],
    roi: Sequence[int],
    starts: Sequence[Sequence[int]],
    flips: Sequence[Sequence[int]] | None = None,
    fresh: Sequence[Sequence[int]] | None = None,
    classes: int = 3,
    dtype: torch.dtype = torch.float32,
    sigma: float = 0.125,
    scale: float = 1.0,
    changed: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    own_weights: bool = False,
) -> Callable[[torch.Generator], tuple[Any, ...]]:
    def make(random: torch.Generator) -> tuple[Any, ...]:
        sums = torch.randn((classes, *shape), generator=random) * scale
        outputs = (torch.randn((len(starts), classes, *roi), generator=random) * scale).to(dtype)
        weights = _weights(roi, sigma)
        if own_weights:
            weights = [weight * torch.rand((len(starts), 1), generator=random) for weight in weights]
        return sums, changed(outputs), weights, starts, flips, fresh

    return make


def _finish(
    mode: str,
    shape: Sequence[int],
    classes: int = 3,
    scaled: bool = True,
    dtype: torch.dtype = torch.uint8,
    scale: float = 1.0,
    changed: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
) -> Callable[[torch.Generator], tuple[Any, ...]]:
    def make(random: torch.Generator) -> tuple[Any, ...]:
        sums = changed(torch.randn((classes, *shape), generator=random) * scale)
        factors = [0.5 + torch.rand(size, generator=random) for size in shape] if scaled else None
        return sums, factors, mode, torch.full(tuple(shape), 99, dtype=dtype) if mode == "argmax" else None

    return make


def _lines(random: torch.Generator) -> torch.Tensor:
    """Every other row of `[4, 6]` has a place, in a store of 20 lines."""
    table = torch.full((4, 6), -1, dtype=torch.int32)
    table[:, ::2] = torch.randperm(20, generator=random)[:12].reshape(4, 3).int()
    return table


def _add_to_lines(random: torch.Generator) -> tuple[Any, ...]:
    sums, outputs = torch.randn((20, 3, 9), generator=random), torch.randn((2, 3, 3, 4, 5), generator=random)
    starts, fresh = [(0, 1, 0), (0, 1, 4)], [(0, 3, 0), (1, 3, 5)]
    return sums, outputs, _weights((3, 4, 5)), starts, [(2,), (0, 1)], fresh, _lines(random)


def _label_lines(random: torch.Generator) -> tuple[Any, ...]:
    sums = torch.randn((20, 3, 9), generator=random)
    return sums, None, "argmax", torch.full((4, 6, 9), 99, dtype=torch.uint8), _lines(random)


def _ties(x: torch.Tensor) -> torch.Tensor:
    return x.round()


def _not_numbers(x: torch.Tensor) -> torch.Tensor:
    x[0, 0], x[1, 1], x[:, 2], x[0, 3], x[1, 3] = torch.nan, torch.nan, torch.nan, torch.inf, -torch.inf
    return x


def _masked(x: torch.Tensor) -> torch.Tensor:
    x[0], x[1, 0] = -torch.inf, -150.0
    return x


def _in_a_larger_volume(x: torch.Tensor) -> torch.Tensor:
    wide = torch.zeros([size + 2 for size in x.shape])
    inside = wide[tuple(slice(1, size + 1) for size in x.shape)]
    inside.copy_(x)
    return inside


def _last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


EIGHT = [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
ROW = [(0, 0, x) for x in (0, 32, 64, 96)]
ROW_FRESH = [(0, 0, x) for x in (0, 64, 96, 128)]
WINDOW = 64**3

CASES = [
    Case("3d", "accumulate", _add((9, 8, 11), (5, 4, 6), [(0, 0, 0), (4, 4, 5), (2, 1, 3)])),
    Case("3d_flips", "accumulate", _add((6, 7, 9), (5, 4, 6), [(1, 2, 3)] * 8, EIGHT), probe=True),
    Case("3d_fresh", "accumulate", _add((6, 7, 9), (5, 4, 6), [(0, 0, 0), (0, 0, 3), (0, 3, 0), (1, 3, 3)],
                                        fresh=[(0, 0, 0), (0, 0, 6), (0, 4, 0), (5, 4, 6)]), probe=True),
    Case("fresh_flipped", "accumulate", _add((6, 7, 9), (5, 4, 6), [(1, 2, 3)] * 2, [(2,), (0, 1, 2)],
                                             [(3, 4, 5), (9, 9, 9)])),
    Case("over_the_edges", "accumulate", _add((4, 5, 6), (6, 7, 8), [(-1, -1, -1), (-3, 2, 1), (3, -6, 5), (9, 0, 0)],
                                              [(0,), (1, 2), (2,), ()], [(1, 1, 1)] * 4), probe=True),
    Case("2d", "accumulate", _add((13, 17), (8, 5), [(0, 0), (5, 12), (3, -2)], [(1,), (0,), (0, 1)])),
    Case("1d", "accumulate", _add((50,), (16,), [(0,), (34,), (-5,)], [(0,), (), (0,)], [(0,), (16,), (9,)])),
    Case("1d_one_voxel", "accumulate", _add((1,), (1,), [(0,)])),
    Case("one_class", "accumulate", _add((4, 4, 4), (4, 4, 4), [(0, 0, 0)], classes=1)),
    Case("weights_of_every_window", "accumulate", _add((7, 9), (4, 5), [(0, 0), (3, 4)], own_weights=True)),
    Case("no_window", "accumulate", _add((4, 4), (2, 2), [])),
    Case("underflow", "accumulate", _add((16, 16), (16, 16), [(0, 0)], sigma=0.03, scale=1e30)),
    Case("large_values", "accumulate", _add((6, 7), (5, 4), [(0, 0), (1, 2)], scale=1e30)),
    Case("strided_outputs", "accumulate", _add((6, 7), (5, 4), [(0, 0), (1, 2)], [(0,), (1,)], changed=strided)),
    Case("channels_last", "accumulate", _add((6, 7, 8), (5, 4, 3), [(0, 0, 0)] * 2, [(0,), (1,)], changed=_last)),
    Case("bfloat16", "accumulate", _add((9, 8, 11), (5, 4, 6), [(0, 0, 0), (4, 4, 5)], [(2,), (0,)],
                                        dtype=torch.bfloat16), why=ROUNDED, probe=True),
    Case("float16", "accumulate", _add((9, 8, 11), (5, 4, 6), [(0, 0, 0)], dtype=torch.float16)),
    Case("lines", "accumulate", _add_to_lines, probe=True),
    Case("logits", "finalise", _finish("logits", (5, 6, 7)), probe=True),
    Case("logits_2d_view", "finalise", _finish("logits", (6, 7), changed=_in_a_larger_volume)),
    Case("logits_unscaled", "finalise", _finish("logits", (6, 7), scaled=False)),
    Case("softmax", "finalise", _finish("softmax", (5, 6, 7), 4), probe=True),
    Case("softmax_1d", "finalise", _finish("softmax", (300,), 20, scaled=False)),
    Case("softmax_view", "finalise", _finish("softmax", (5, 6, 7), changed=_in_a_larger_volume)),
    Case("softmax_extreme", "finalise", _finish("softmax", (40, 30), 4, scale=60.0)),
    Case("softmax_not_numbers", "finalise", _finish("softmax", (5, 4), changed=_not_numbers, scaled=False)),
    Case("softmax_masked", "finalise", _finish("softmax", (5, 4), changed=_masked)),
    Case("argmax", "finalise", _finish("argmax", (5, 6, 7)), probe=True),
    Case("argmax_unscaled_2d", "finalise", _finish("argmax", (5, 300), 5, False, torch.int16)),
    Case("argmax_1d", "finalise", _finish("argmax", (37,), 300, True, torch.int64)),
    Case("argmax_ties", "finalise", _finish("argmax", (20, 20), 4, False, changed=_ties)),
    Case("argmax_not_numbers", "finalise", _finish("argmax", (5, 4), scaled=False, changed=_not_numbers)),
    Case("argmax_view", "finalise", _finish("argmax", (5, 4, 3), changed=_in_a_larger_volume)),
    Case("argmax_strided", "finalise", _finish("argmax", (5, 4, 3), changed=strided)),
    Case("argmax_lines", "finalise", _label_lines, probe=True),
    Case("four_windows", "accumulate", _add((64, 64, 160), (64,) * 3, ROW, fresh=ROW_FRESH),
         "window inferer, 4 windows of 64^3, 3 classes", traffic=3 * 4 * (4 * WINDOW + 64 * 64 * 160)),
    Case("four_windows_flipped_bfloat16", "accumulate",
         _add((64, 64, 160), (64,) * 3, ROW, [(2,), (0, 2), (1, 2), (0, 1, 2)], ROW_FRESH, dtype=torch.bfloat16),
         "window inferer, 4 mirrored windows of 64^3, 3 classes, amp", traffic=3 * (8 * WINDOW + 4 * 64 * 64 * 160)),
    Case("labels_of_rows", "finalise", _finish("argmax", (32, 64, 160), 20, False), "window inferer, 20 classes",
         traffic=32 * 64 * 160 * (4 * 20 + 1)),
    Case("probabilities", "finalise", _finish("softmax", (64, 64, 64), 3), "probabilities of a volume, 3 classes",
         traffic=2 * 12 * WINDOW),
]  # fmt: skip
