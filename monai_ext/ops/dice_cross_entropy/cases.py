"""Inputs of `dice_cross_entropy`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch

from monai_ext.ops.case import Case, channels_last, strided

FUNCTION = "dice_cross_entropy_sums"
IGNORED = 200
ROUNDED = "bfloat16 keeps 8 bits: logits are exact in it, their gradient is rounded (by Triton's interpreter, cut) once"


def _make(
    shape: Sequence[int],
    weighted: bool = False,
    ignore: int | None = None,
    activation: str = "softmax",
    gamma: float = 0.0,
    smoothing: float = 0.0,
    dtype: torch.dtype = torch.float32,
    labels: torch.dtype = torch.int64,
    layout: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    scale: float = 2.0,
    offset: float = 0.0,
) -> Callable[[torch.Generator], tuple[Any, ...]]:
    def make(random: torch.Generator) -> tuple[Any, ...]:
        classes = shape[1]
        logits = (torch.randn(tuple(shape), generator=random) * scale + offset).to(dtype)
        size = (shape[0], *shape[2:])
        target = torch.randint(0, classes, size, generator=random)
        if ignore is not None:
            target[torch.rand(size, generator=random) < 0.3] = ignore
        weights = 0.5 + torch.rand(classes, generator=random) if weighted else None
        options = ignore, activation, gamma, smoothing
        return layout(logits).detach().requires_grad_(), target.to(labels), weights, *options

    return make


def _certain(value: float, **options: Any) -> Callable[[torch.Generator], tuple[Any, ...]]:
    """One class of every voxel stands out by `value`, rightly in most."""

    def make(random: torch.Generator) -> tuple[Any, ...]:
        logits, labels, *others = _make((2, 3, 9, 7), scale=1.0, **options)(random)
        with torch.no_grad():
            right = torch.where(torch.rand(labels.shape, generator=random) < 0.9, labels, (labels + 1) % 3)
            logits.scatter_add_(1, right[:, None], torch.full_like(logits, value))
        return logits, labels, *others

    return make


def _equal(random: torch.Generator) -> tuple[Any, ...]:
    labels = torch.randint(0, 3, (2, 4, 5), generator=random)
    return torch.full((2, 3, 4, 5), -7.5).requires_grad_(), labels, None, None, "softmax", 0.0, 0.0


def _not_a_number(ignore: int | None) -> Callable[[torch.Generator], tuple[Any, ...]]:
    """One voxel is NaN; ignored, it changes nothing."""

    def make(random: torch.Generator) -> tuple[Any, ...]:
        logits, labels, *others = _make((2, 3, 4, 5), ignore=ignore)(random)
        with torch.no_grad():
            logits[0, 1, 2, 3] = torch.nan
        labels[0, 2, 3] = 1 if ignore is None else ignore
        return logits, labels, *others

    return make


def _bytes(shape: Sequence[int], size: int = 4, labels: int = 8) -> int:
    """Forward reads the logits, backward reads them and writes their gradient; both read the labels."""
    return 3 * size * prod(shape) + 2 * labels * prod(shape) // shape[1]


SMALL = (2, 3, 40, 56, 40)
BIG = (1, 4, 64, 128, 128)
SLICES = (16, 4, 192, 160)

CASES = [
    Case("3d", FUNCTION, _make((2, 3, 7, 6, 9)), probe=True),
    Case("3d_channels_last", FUNCTION, _make((2, 3, 7, 6, 9), layout=channels_last), probe=True),
    Case("2d", FUNCTION, _make((3, 4, 17, 13))),
    Case("2d_channels_last", FUNCTION, _make((3, 5, 17, 13), layout=channels_last)),
    Case("1d", FUNCTION, _make((2, 2, 37))),
    Case("not_contiguous", FUNCTION, _make((2, 3, 6, 5), layout=strided)),
    Case("several_tiles", FUNCTION, _make((2, 4, 31, 127), ignore=IGNORED)),
    Case("many_classes", FUNCTION, _make((1, 17, 5, 9), weighted=True, smoothing=0.1)),
    Case("many_classes_last", FUNCTION, _make((1, 9, 5, 9), layout=channels_last)),
    Case("one_class", FUNCTION, _make((2, 1, 5, 6))),
    Case("one_voxel", FUNCTION, _make((1, 3, 1, 1, 1))),
    Case("empty_batch", FUNCTION, _make((0, 3, 4, 4))),
    Case("uint8", FUNCTION, _make((2, 3, 8, 8), labels=torch.uint8, ignore=IGNORED)),
    Case("uint8_ignores_none", FUNCTION, _make((2, 3, 8, 8), labels=torch.uint8)),
    Case("int16", FUNCTION, _make((2, 3, 8, 8), labels=torch.int16, ignore=-1)),
    Case("int32", FUNCTION, _make((2, 3, 8, 8), labels=torch.int32, ignore=0)),
    Case("weighted", FUNCTION, _make((2, 4, 9, 8), weighted=True, ignore=-1)),
    Case("all_ignored", FUNCTION, _make((2, 1, 9, 8), ignore=0)),
    Case("smoothed", FUNCTION, _make((2, 4, 9, 8), smoothing=0.1)),
    Case("smoothed_weighted", FUNCTION, _make((2, 4, 9, 8), smoothing=0.3, weighted=True, ignore=2)),
    Case("focal_1", FUNCTION, _make((2, 3, 9, 8), gamma=1.0)),
    Case("focal_2", FUNCTION, _make((2, 4, 9, 8), gamma=2.0, weighted=True, ignore=IGNORED), probe=True),
    Case("focal_3.5", FUNCTION, _make((2, 4, 9, 8), gamma=3.5, layout=channels_last)),
    Case("focal_smoothed", FUNCTION, _make((2, 4, 9, 8), gamma=2.5, smoothing=0.1, weighted=True)),
    Case("sigmoid", FUNCTION, _make((2, 3, 9, 8), activation="sigmoid"), probe=True),
    Case("sigmoid_channels_last", FUNCTION,
         _make((2, 3, 5, 4, 6), activation="sigmoid", weighted=True, ignore=IGNORED, layout=channels_last)),
    Case("sigmoid_focal", FUNCTION, _make((2, 3, 9, 8), activation="sigmoid", gamma=2.0, smoothing=0.1)),
    Case("sigmoid_focal_1.5", FUNCTION, _make((2, 3, 9, 8), activation="sigmoid", gamma=1.5, weighted=True)),
    Case("equal_logits", FUNCTION, _equal),
    Case("large_offset", FUNCTION, _make((2, 3, 9, 7), scale=1.0, offset=1e4)),
    Case("large_offset_smoothed", FUNCTION, _make((2, 3, 9, 7), scale=1.0, offset=1e4, smoothing=0.1)),
    Case("certain", FUNCTION, _certain(1e4)),
    Case("certain_focal", FUNCTION, _certain(50.0, gamma=2.0)),
    Case("certain_focal_1e4", FUNCTION, _certain(1e4, gamma=2.0, smoothing=0.1)),
    Case("certain_1e30", FUNCTION, _certain(1e30)),
    Case("excluded_1e30", FUNCTION, _certain(-1e30)),
    Case("sigmoid_1e4", FUNCTION, _certain(1e4, activation="sigmoid")),
    Case("sigmoid_1e30", FUNCTION, _certain(-1e30, activation="sigmoid", gamma=2.0)),
    Case("nan", FUNCTION, _not_a_number(None)),
    Case("nan_ignored", FUNCTION, _not_a_number(IGNORED)),
    Case("bfloat16", FUNCTION, _make((2, 3, 7, 6, 9), dtype=torch.bfloat16), tolerance=8e-3, why=ROUNDED),
    Case("bfloat16_channels_last", FUNCTION,
         _make((2, 4, 7, 6, 9), dtype=torch.bfloat16, layout=channels_last), tolerance=8e-3, why=ROUNDED),
    Case("float16", FUNCTION, _make((2, 3, 7, 6), dtype=torch.float16), tolerance=1e-3, why="float16 keeps 11 bits"),
    Case("hippocampus", FUNCTION, _make(SMALL), "nnunet 3D hippocampus, batch 2", traffic=_bytes(SMALL)),
    Case("hippocampus_last", FUNCTION, _make(SMALL, layout=channels_last), "nnunet 3D hippocampus, batch 2",
         traffic=_bytes(SMALL)),
    Case("patch_128", FUNCTION, _make(BIG, labels=torch.uint8), "nnunet 3D, half a patch of 128^3",
         traffic=_bytes(BIG, 4, 1)),
    Case("patch_128_bfloat16", FUNCTION,
         _make(BIG, dtype=torch.bfloat16, labels=torch.uint8, layout=channels_last),
         "nnunet 3D, half a patch of 128^3, amp", 8e-3, _bytes(BIG, 2, 1), ROUNDED),
    Case("slices", FUNCTION, _make(SLICES), "nnunet 2D, 16 of 64 slices", traffic=_bytes(SLICES)),
]  # fmt: skip
