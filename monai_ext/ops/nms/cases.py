"""Inputs of `nms`, `batched_nms` and `nms_mask`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from monai_ext.ops.case import Case

Make = Callable[[torch.Generator], tuple[Any, ...]]


def random_boxes(
    random: torch.Generator, count: int, extent: float = 60.0, offset: float = 0.0, side: float = 24.0
) -> torch.Tensor:
    """`[N, 4]` with sides from 4 to `side` pixels, corners within `extent`."""
    corner = torch.rand((count, 2), generator=random) * extent + offset
    return torch.cat([corner, corner + 4 + (side - 4) * torch.rand((count, 2), generator=random)], 1)


def _plain(
    count: int,
    threshold: float = 0.5,
    changed: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    ranked: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    extent: float = 60.0,
    offset: float = 0.0,
    side: float = 24.0,
) -> Make:
    def make(random: torch.Generator) -> tuple[Any, ...]:
        boxes = random_boxes(random, count, extent, offset, side)
        return changed(boxes), ranked(torch.rand(count, generator=random)), threshold

    return make


def _grouped(
    count: int, groups: int, threshold: float = 0.5, extent: float = 60.0, first: int = 0, side: float = 24.0
) -> Make:
    def make(random: torch.Generator) -> tuple[Any, ...]:
        boxes, scores, _ = _plain(count, extent=extent, side=side)(random)
        return boxes, scores, torch.randint(first, first + groups, (count,), generator=random), threshold

    return make


def _mask_of_groups(random: torch.Generator) -> tuple[Any, ...]:
    boxes, scores, groups, threshold = _grouped(90, 3)(random)
    return boxes, scores, threshold, groups


def _clusters(count: int, objects: int, threshold: float) -> Make:
    """Proposals as a network makes them: many a few pixels around every object."""

    def make(random: torch.Generator) -> tuple[Any, ...]:
        centres = random_boxes(random, objects, 1000.0)
        boxes = centres[torch.randint(objects, (count,), generator=random)]
        boxes = boxes + 2 * torch.randn((count, 4), generator=random)
        return boxes, torch.rand(count, generator=random), threshold

    return make


def _rounded(x: torch.Tensor) -> torch.Tensor:
    """Few different values, so that many are equal."""
    return (4 * x).round() / 4


def _whole(x: torch.Tensor) -> torch.Tensor:
    """Whole pixels on a coarse grid: many overlaps of exactly one half."""
    return (x / 4).round() * 4


def _identical(x: torch.Tensor) -> torch.Tensor:
    return x[:1].expand(len(x), 4)


def _degenerate(x: torch.Tensor) -> torch.Tensor:
    x[::3, 2] = x[::3, 0]
    x[1::3] = x[1::3, [2, 1, 0, 3]]
    x[4] = x[4, [2, 3, 0, 1]]
    return x


def _not_numbers(x: torch.Tensor) -> torch.Tensor:
    x[3, 0], x[10, 3], x[20] = torch.nan, torch.nan, torch.nan
    x[30, 2], x[31, :2] = torch.inf, -torch.inf
    x[32], x[33] = torch.tensor([-torch.inf, 0, torch.inf, 9]), torch.tensor([-torch.inf, 0, torch.inf, 9])
    return x


def _unranked(x: torch.Tensor) -> torch.Tensor:
    x[::5], x[1], x[2] = torch.nan, -torch.inf, torch.inf
    return x


def _strided(x: torch.Tensor) -> torch.Tensor:
    """The same values between others."""
    wide = torch.zeros((x.shape[0], 2 * x.shape[1]))
    wide[:, ::2] = x
    return wide[:, ::2]


CASES = [
    Case("boxes", "nms", _plain(100), probe=True),
    Case("threshold_03", "nms", _plain(70, 0.3)),
    Case("threshold_07", "nms", _plain(130, 0.7, extent=20)),
    Case("threshold_0", "nms", _plain(64, 0.0), probe=True),
    Case("threshold_1", "nms", _plain(65, 1.0, _whole)),
    Case("one", "nms", _plain(1)),
    Case("two", "nms", _plain(2, 0.1, extent=2)),
    Case("none", "nms", _plain(0)),
    Case("equal_scores", "nms", _plain(150, ranked=_rounded), probe=True),
    Case("exact_overlaps", "nms", _plain(200, changed=_whole, extent=40)),
    Case("identical", "nms", _plain(70, 1.0 - 2.0**-20, _identical)),
    Case("identical_at_1", "nms", _plain(70, 1.0, _identical)),
    Case("degenerate", "nms", _plain(70, 0.2, _degenerate), probe=True),
    Case("not_numbers", "nms", _plain(80, 0.2, _not_numbers), probe=True),
    Case("scores_not_numbers", "nms", _plain(80, ranked=_unranked)),
    Case("large_offset", "nms", _plain(100, offset=1e4)),
    Case("huge", "nms", _plain(80, changed=lambda x: x * 1e17)),
    Case("bfloat16", "nms", _plain(100, changed=lambda x: x.bfloat16(), ranked=lambda x: x.bfloat16())),
    Case("strided", "nms", _plain(50, changed=_strided)),
    Case("groups", "batched_nms", _grouped(150, 3), probe=True),
    Case("groups_of_few", "batched_nms", _grouped(150, 60, 0.1, extent=10), probe=True),
    Case("groups_any_numbers", "batched_nms", _grouped(100, 2, first=-1)),
    Case("groups_long", "batched_nms", _grouped(400, 2, 0.4)),
    Case("groups_one", "batched_nms", _grouped(90, 1)),
    Case("groups_none", "batched_nms", _grouped(0, 1)),
    Case("mask", "nms_mask", _plain(100)),
    Case("mask_of_groups", "nms_mask", _mask_of_groups),
    Case("proposals_2000", "nms", _plain(2000, 0.5, extent=960, side=64), "Mask R-CNN, proposals of a level",
         traffic=2000 * 21),
    Case("clusters_2000", "nms", _clusters(2000, 100, 0.7), "Mask R-CNN, proposals of 100 objects", traffic=2000 * 21),
    Case("levels_8000", "batched_nms", _grouped(8000, 5, 0.7, extent=960, side=128),
         "Mask R-CNN, proposals of five levels", traffic=8000 * 29),
]  # fmt: skip
