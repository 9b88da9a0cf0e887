"""Inputs of `mask_targets`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from monai_ext.ops.case import Case


def _discs(random: torch.Generator, count: int, height: int, width: int, low: float, high: float) -> Any:
    """A map of `count` discs, some hidden by later ones, and their boxes `[count, 4]`."""
    labels = torch.zeros((height, width), dtype=torch.int32)
    centre = torch.rand((count, 2), generator=random) * torch.tensor([width, height])
    radius = (low + (high - low) * torch.rand(count, generator=random)) / 2
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
    for n in range(count):
        labels[(y - centre[n, 1]) ** 2 + (x - centre[n, 0]) ** 2 <= radius[n] ** 2] = n + 1
    return labels, torch.cat([centre - radius[:, None], centre + radius[:, None]], 1)


def _many(
    images: int,
    count: int,
    height: int,
    width: int,
    low: float,
    high: float,
    size: int = 28,
    sampling: int = 0,
    on_edges: bool = False,
    changed: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    dtype: torch.dtype = torch.float32,
) -> Callable[[torch.Generator], tuple[Any, ...]]:
    def make(random: torch.Generator) -> tuple[Any, ...]:
        found = [_discs(random, count, height, width, low, high) for _ in range(images)]
        boxes = torch.cat([box for _, box in found])
        shifts = torch.randn(boxes.shape, generator=random) * 0.1 * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        limit = torch.tensor([width, height] * 2)
        boxes = boxes.round() if on_edges else torch.minimum((boxes + shifts).clamp_min(0), limit)
        image = torch.arange(images).repeat_interleave(count).float()
        ids = (torch.arange(count, dtype=torch.int32) + 1).repeat(images)
        rois = torch.cat([image[:, None], boxes], 1).to(dtype)
        return changed(torch.stack([labels for labels, _ in found])), rois, ids, size, sampling

    return make


def _given(
    rois: list[list[float]], ids: list[int] | None = None, size: int = 7, height: int = 20, width: int = 24
) -> Callable[[torch.Generator], tuple[Any, ...]]:
    def make(random: torch.Generator) -> tuple[Any, ...]:
        labels = torch.randint(1, 3, (2, height // 4, width // 4), generator=random, dtype=torch.int32)
        labels = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)
        numbers = [1 + r % 2 for r in range(len(rois))] if ids is None else ids
        return labels, torch.tensor(rois).reshape(-1, 5), torch.tensor(numbers, dtype=torch.int32), size

    return make


_INF, _NAN = float("inf"), float("nan")
_ODD = [
    [0, 3.0, 4.0, 3.0, 9.0],
    [1, 9.0, 4.0, 3.0, 9.0],
    [0, _NAN, 0.0, 5.0, 5.0],
    [1, 0.0, 0.0, _INF, 5.0],
    [0, -1e30, -1e30, 1e30, 1e30],
    [1, 40.0, 3.0, 50.0, 9.0],
    [0, -30.0, -30.0, -9.0, 0.0],
    [1, 5.2, 6.3, 5.7, 6.9],
    [0, -2.5, -1.25, 28.5, 22.0],
    [1, -1.0, -1.0, 13.0, 9.0],
    [1, 1e15, 3.0, 1e15, 9.0],
]
_RECIPE = "mask_rcnn"

CASES = [
    Case("nuclei_small", "mask_targets", _many(2, 3, 20, 27, 4, 12, size=7), probe=True),
    Case("size_14", "mask_targets", _many(1, 3, 33, 40, 5, 40, size=14)),
    Case("on_edges", "mask_targets", _many(1, 5, 32, 32, 6, 20, size=4, on_edges=True), probe=True),
    Case("fixed_sampling", "mask_targets", _many(1, 4, 40, 37, 5, 40, size=7, sampling=2), probe=True),
    Case("one_bin", "mask_targets", _many(1, 4, 33, 40, 3, 12, size=1)),
    Case("one_pixel", "mask_targets", _given([[0, 0.0, 0, 1, 1], [1, 0.2, 0.1, 0.8, 0.9]], size=5, height=4, width=4)),
    Case("degenerate", "mask_targets", _given(_ODD, size=5), probe=True),
    Case("no_rois", "mask_targets", _given([])),
    Case("no_id", "mask_targets", _given([[0.0, 0, 0, 9, 9]] * 2 + [[1.0, 0, 0, 9, 9]], [0, -3, 9]), probe=True),
    Case("strided", "mask_targets", _many(1, 3, 30, 30, 5, 20, changed=lambda m: m.mT.contiguous().mT)),
    Case("int64_map", "mask_targets", _many(1, 3, 20, 20, 5, 12, size=5, changed=lambda m: m.long())),
    Case("bfloat16_rois", "mask_targets", _many(1, 3, 30, 30, 5, 20, size=9, dtype=torch.bfloat16)),
    Case(
        "nuclei",
        "mask_targets",
        _many(4, 128, 512, 512, 14, 60),
        recipe=_RECIPE,
        traffic=4 * 512**2 * 4 + 512 * 784 * 4,
    ),
    Case("coco", "mask_targets", _many(2, 32, 832, 1344, 60, 500), recipe=_RECIPE, traffic=2 * 832 * 1344 * 4),
]
