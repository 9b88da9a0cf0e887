"""Inputs of `match_anchors`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from monai_ext.ops.case import Case

NUCLEI = ((12, 16), (24, 32), (48, 64), (96, 128), (192,))
COCO = ((32,), (64,), (128,), (256,), (512,))
STRIDES = (4, 8, 16, 32, 64)
Change = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def _same(gt: torch.Tensor, anchors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return gt, anchors


def _grid(size: int, sides: Sequence[float], stride: int) -> torch.Tensor:
    """Anchors of three shapes at every `stride` pixels of a square image."""
    half = torch.tensor([(s / r / 2, s * r / 2) for r in (0.5**0.5, 1.0, 2**0.5) for s in sides])
    places = torch.arange(0, size, stride)
    centres = torch.cartesian_prod(places, places).flip(1)[:, None]
    return torch.cat([centres - half, centres + half], dim=2).view(-1, 4)


def _make(
    count: int,
    size: int = 64,
    sizes: Sequence[Sequence[float]] = ((8, 12), (24,), (40,)),
    sides: tuple[float, float] = (5, 40),
    whole: bool = False,
    rescue: bool = True,
    thresholds: tuple[float, float] = (0.7, 0.3),
    changed: Change = _same,
) -> Callable[[torch.Generator], tuple[Any, ...]]:
    """Anchors of a square image, and objects anywhere in it; `whole` pixels make ties."""

    def make(random: torch.Generator) -> tuple[Any, ...]:
        anchors = torch.cat([_grid(size, level, stride) for level, stride in zip(sizes, STRIDES, strict=False)])
        anchors = anchors.round() if whole else anchors
        low, high = sides
        extent = low + (high - low) * torch.rand(count, 2, generator=random)
        corner = torch.rand(count, 2, generator=random) * (size - extent).clamp_min(0)
        gt = torch.cat([corner, corner + extent], dim=1)
        return *changed(gt.round() if whole else gt, anchors), *thresholds, rescue

    return make


def _strided(gt: torch.Tensor, anchors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return gt.flip(0), torch.stack([anchors, anchors + 3], dim=-1)[..., 0]


def _twice(gt: torch.Tensor, anchors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([gt, gt.flip(0), gt]), torch.cat([anchors, anchors])


def _odd(gt: torch.Tensor, anchors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Empty, inverted, infinite and undefined boxes, far away ones, and huge ones whose areas overflow."""
    inf, nan = torch.inf, torch.nan
    strange = torch.tensor(
        [[9, 9, 9, 9], [20, 20, 10, 10], [4, 4, inf, 9], [nan, 0, 9, 9], [0, 0, 9, nan], [0, 0, 1e30, 1e30],
         [-1e30, -1e30, 1e30, 1e30], [1e6, 1e6, 1e6 + 8, 1e6 + 8], [-inf, -inf, inf, inf], [0, 20, 20, 0]],
    )  # fmt: skip
    return torch.cat([strange, gt, strange]), torch.cat([anchors, strange, anchors[:7]])


def _wide(gt: torch.Tensor, anchors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return gt.double(), anchors.double()


CASES = [
    Case("ordinary", "match_anchors", _make(12), probe=True),
    Case("ties", "match_anchors", _make(9, whole=True), probe=True),
    Case("ties_without_rescue", "match_anchors", _make(9, whole=True, rescue=False)),
    Case("one_threshold", "match_anchors", _make(12, thresholds=(0.5, 0.5), rescue=False)),
    Case("always_positive", "match_anchors", _make(3, size=16, thresholds=(0.0, 0.0))),
    Case("odd_number", "match_anchors", _make(7, size=37)),
    Case("one_object", "match_anchors", _make(1, size=32)),
    Case("no_object", "match_anchors", _make(0, size=32)),
    Case("no_anchor", "match_anchors", _make(4, size=32, changed=lambda gt, anchors: (gt, anchors[:0]))),
    Case("one_anchor", "match_anchors", _make(4, size=32, changed=lambda gt, anchors: (gt, anchors[70:71]))),
    Case("strided", "match_anchors", _make(5, size=32, changed=_strided)),
    Case("equal_objects_and_anchors", "match_anchors", _make(3, size=32, whole=True, changed=_twice)),
    Case("odd_boxes", "match_anchors", _make(3, size=32, changed=_odd), probe=True),
    Case("tiny_objects", "match_anchors", _make(5, size=48, sides=(0.01, 1))),
    Case("float64", "match_anchors", _make(5, size=32, changed=_wide)),
    Case("nuclei", "match_anchors", _make(200, 512, NUCLEI, (6, 60)), "Mask R-CNN on 512 x 512 nuclei, 200 objects",
         traffic=25 * 128 * 128 * 8),
    Case("coco", "match_anchors", _make(30, 1024, COCO, (10, 400)), "Mask R-CNN on 1024 x 1024, 30 objects",
         traffic=25 * 261_888),
]  # fmt: skip
