"""Inputs of the resampling.

Largest logits are asked for where no sum is rounded: multiples of 1/8 at simple ratios. Elsewhere two forms may differ
where two classes differ by less than a rounding error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from monai_ext.ops.case import Case

Shape = tuple[int, ...]


def _volume(size: Shape, new: Shape, separate: int | None = None, scale: float = 1.0, offset: float = 0.0) -> Any:
    def make(generator: torch.Generator) -> tuple[Any, ...]:
        return torch.randn(size, generator=generator) * scale + offset, new, separate

    return make


def _typed(dtype: torch.dtype, size: Shape, new: Shape) -> Callable[[torch.Generator], tuple[Any, ...]]:
    def make(generator: torch.Generator) -> tuple[Any, ...]:
        return torch.randn(size, generator=generator).to(dtype), new, None

    return make


def _strided(size: Shape, new: Shape) -> Callable[[torch.Generator], tuple[Any, ...]]:
    """Channels last in memory."""

    def make(generator: torch.Generator) -> tuple[Any, ...]:
        return torch.randn(*size[1:], size[0], generator=generator).permute(3, 0, 1, 2), new, None

    return make


def _window(size: Shape, new: Shape) -> Callable[[torch.Generator], tuple[Any, ...]]:
    """Part of a larger volume."""

    def make(generator: torch.Generator) -> tuple[Any, ...]:
        whole = torch.randn(*(n + 3 for n in size), generator=generator)
        return whole[tuple(slice(1, n + 1) for n in size)], new, None

    return make


def _labels(
    classes: int, size: Shape, new: Shape, separate: int | None = None, dtype: torch.dtype = torch.uint8, patch: int = 1
) -> Callable[[torch.Generator], tuple[Any, ...]]:
    """Random cuboids of `patch` voxels."""

    def make(generator: torch.Generator) -> tuple[Any, ...]:
        coarse = torch.randint(0, classes, [-(-n // patch) for n in size], generator=generator)
        for axis, n in enumerate(size):
            coarse = coarse.repeat_interleave(patch, axis).narrow(axis, 0, n)
        return coarse.to(dtype), new, separate

    return make


def _exact(
    size: Shape, new: Shape, separate: int | None = None, dtype: torch.dtype = torch.float32, lead: float = 0.0
) -> Callable[[torch.Generator], tuple[Any, ...]]:
    """Multiples of 1/8 up to 4; in one half class 0 leads by `lead`, so that the others can be left out."""

    def make(generator: torch.Generator) -> tuple[Any, ...]:
        logits = torch.randint(-32, 33, size, generator=generator) / 8
        logits[0, ..., : size[3] // 2] += lead
        return logits.to(dtype), new, separate, True

    return make


_HIPPOCAMPUS, _FLOAT = (40, 56, 40), 4
CASES = [
    Case("image_grows", "resample_image", _volume((2, 12, 17, 15), (20, 23, 36)), probe=True),
    Case("image_shrinks", "resample_image", _volume((1, 40, 30, 77), (13, 11, 20))),
    Case("image_shrinks_threefold_along_x", "resample_image", _volume((1, 9, 10, 200), (9, 12, 61))),
    Case("image_on_both_sides_of_its_size", "resample_image", _volume((1, 40, 30, 35), (13, 47, 80))),
    Case("image_with_sizes_of_one", "resample_image", _volume((1, 1, 20, 1), (3, 31, 9))),
    Case("image_to_one_voxel", "resample_image", _volume((1, 5, 5, 5), (1, 1, 1))),
    Case("image_with_nearest_z", "resample_image", _volume((2, 9, 30, 31), (21, 22, 40), 0), probe=True),
    Case("image_with_nearest_y", "resample_image", _volume((1, 9, 30, 31), (11, 22, 40), 1)),
    Case("image_with_nearest_x", "resample_image", _volume((1, 9, 30, 31), (11, 22, 60), 2)),
    Case("image_one_axis_equal", "resample_image", _volume((1, 10, 33, 21), (14, 33, 17))),
    Case("image_equal_sizes", "resample_image", _volume((1, 4, 5, 6), (4, 5, 6))),
    Case("image_without_channels", "resample_image", _volume((0, 4, 5, 6), (5, 5, 6))),
    Case("image_with_a_large_offset", "resample_image", _volume((1, 9, 20, 21), (12, 30, 30), offset=1e4)),
    Case("image_of_large_values", "resample_image", _volume((1, 9, 20, 21), (12, 30, 30), scale=1e30)),
    Case("constant_image", "resample_image", _volume((1, 6, 7, 8), (9, 5, 13), scale=0, offset=1234.5)),
    Case("image_channels_last", "resample_image", _strided((2, 9, 20, 21), (12, 30, 30))),
    Case("logits_grow", "resample_logits", _volume((3, 12, 17, 15), (20, 23, 36)), probe=True),
    Case("logits_shrink", "resample_logits", _volume((3, 30, 17, 99), (7, 12, 21))),
    Case("logits_with_sizes_of_one", "resample_logits", _volume((2, 1, 20, 1), (3, 31, 9))),
    Case("logits_with_nearest_z", "resample_logits", _volume((2, 5, 20, 21), (13, 30, 35), 0)),
    Case("logits_with_nearest_x", "resample_logits", _volume((2, 5, 20, 21), (13, 30, 35), 2)),
    Case("logits_in_bfloat16", "resample_logits", _typed(torch.bfloat16, (3, 7, 9, 40), (12, 12, 70)), probe=True),
    Case("logits_in_float16", "resample_logits", _typed(torch.float16, (3, 7, 9, 40), (12, 12, 70)), probe=True),
    Case("logits_part_of_a_volume", "resample_logits", _window((3, 7, 9, 40), (12, 12, 70))),
    Case("logits_channels_last", "resample_logits", _strided((3, 7, 9, 40), (12, 12, 70))),
    Case("logits_of_large_values", "resample_logits", _volume((2, 7, 9, 10), (12, 12, 11), scale=-1e30)),
    Case("largest_of_logits", "resample_logits_argmax", _exact((5, 12, 16, 20), (24, 32, 40)), probe=True),
    Case(
        "largest_where_one_class_leads",
        "resample_logits_argmax",
        _exact((5, 12, 16, 80), (24, 16, 160), lead=9),
        probe=True,
    ),
    Case("largest_with_nearest_z", "resample_logits_argmax", _exact((3, 5, 12, 33), (13, 24, 66), 0)),
    Case("largest_of_shrunk_logits", "resample_logits_argmax", _exact((4, 20, 40, 80), (10, 10, 20))),
    Case("largest_of_bfloat16", "resample_logits_argmax", _exact((4, 6, 8, 19), (12, 16, 38), None, torch.bfloat16)),
    Case("largest_of_float16", "resample_logits_argmax", _exact((4, 6, 8, 19), (12, 16, 38), None, torch.float16)),
    Case("largest_of_one_class", "resample_logits_argmax", _exact((1, 6, 8, 10), (12, 16, 20))),
    Case("largest_of_300_classes", "resample_logits_argmax", _exact((300, 3, 4, 9), (6, 8, 18))),
    Case("labels_grow", "resample_labels", _labels(4, (12, 17, 15), (20, 23, 36)), probe=True),
    Case("labels_shrink", "resample_labels", _labels(4, (30, 28, 70), (7, 14, 21))),
    Case("labels_between_two", "resample_labels", _labels(3, (10, 12, 14), (5, 6, 7))),
    Case("labels_with_sizes_of_one", "resample_labels", _labels(4, (1, 20, 1), (3, 31, 9))),
    Case("labels_with_nearest_z", "resample_labels", _labels(4, (5, 20, 90), (13, 31, 70), 0, patch=5), probe=True),
    Case("labels_with_nearest_y", "resample_labels", _labels(4, (5, 20, 90), (13, 31, 70), 1, patch=5)),
    Case("labels_with_nearest_x", "resample_labels", _labels(4, (5, 20, 90), (13, 31, 170), 2, patch=5)),
    Case("labels_x_equal", "resample_labels", _labels(4, (5, 20, 40), (13, 31, 40), patch=5)),
    Case("labels_of_one_class", "resample_labels", _labels(1, (5, 6, 7), (9, 9, 9))),
    Case("labels_of_300_classes", "resample_labels", _labels(300, (9, 10, 11), (12, 15, 14), dtype=torch.uint16)),
    Case("labels_in_int64", "resample_labels", _labels(9, (9, 10, 11), (12, 15, 14), dtype=torch.int64)),
    Case("labels_equal_sizes", "resample_labels", _labels(9, (4, 5, 6), (4, 5, 6), dtype=torch.int16)),
    Case(
        "image_of_a_CT",
        "resample_image",
        _volume((1, 24, 256, 256), (48, 224, 224), 0),
        recipe="nnU-Net preprocessing, coarse z",
        traffic=_FLOAT * (24 * 256 * 256 + 48 * 224 * 224),
    ),
    Case(
        "image_of_an_MR",
        "resample_image",
        _volume((1, *_HIPPOCAMPUS), (48, 64, 48)),
        recipe="nnU-Net preprocessing, hippocampus",
        traffic=_FLOAT * (40 * 56 * 40 + 48 * 64 * 48),
    ),
    Case(
        "label_of_a_CT",
        "resample_labels",
        _labels(4, (24, 256, 256), (48, 224, 224), 0, patch=40),
        recipe="nnU-Net preprocessing, coarse z",
        traffic=24 * 256 * 256 + 48 * 224 * 224,
    ),
    Case(
        "prediction_of_an_MR",
        "resample_logits_argmax",
        _exact((3, *_HIPPOCAMPUS), (80, 112, 80), lead=9),
        recipe="nnU-Net inference, hippocampus",
        traffic=3 * _FLOAT * 40 * 56 * 40 + 80 * 112 * 80,
    ),
    Case(
        "prediction_of_a_CT",
        "resample_logits_argmax",
        _exact((14, 64, 64, 64), (128, 128, 128), lead=9),
        recipe="nnU-Net inference, many organs",
        traffic=14 * _FLOAT * 64**3 + 128**3,
    ),
]
