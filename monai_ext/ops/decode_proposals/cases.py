"""Inputs of `decode_proposals`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from monai_ext.ops.case import Case

Change = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def _same(deltas: torch.Tensor, anchors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return deltas, anchors


def _make(
    count: int,
    size: tuple[int, int] = (60, 90),
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    min_size: float = 0.0,
    scale: float = 0.5,
    changed: Change = _same,
) -> Callable[[torch.Generator], tuple[Any, ...]]:
    def make(random: torch.Generator) -> tuple[Any, ...]:
        deltas = torch.randn(count, 4, generator=random) * torch.tensor(weights) * scale
        corner = torch.rand(count, 2, generator=random) * max(size) - 8
        anchors = torch.cat([corner, corner + 3 + 20 * torch.rand(count, 2, generator=random)], dim=1)
        return *changed(deltas, anchors), size, weights, min_size

    return make


def _strided(deltas: torch.Tensor, anchors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As a head's output lies in memory, channels before positions."""
    return deltas.t().contiguous().t(), torch.stack([anchors, anchors + 3], dim=-1)[..., 0]


def _half(deltas: torch.Tensor, anchors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return deltas.bfloat16(), anchors


def _odd(deltas: torch.Tensor, anchors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values that are not finite, in each place; ones that overflow; scales at both ends; a corner outside."""
    deltas, anchors = deltas.clone(), anchors.clone()
    values = (torch.nan, torch.inf, -torch.inf, 1e30, -1e30)
    for k, value in enumerate(values):
        for place in range(4):
            deltas[4 * k + place, place] = value
    anchors[20, 0], anchors[21, 3] = torch.nan, torch.inf
    anchors[22] = torch.tensor([900.0, 900.0, 910.0, 910.0])
    anchors[23] = torch.tensor([5.0, 5.0, 5.0, 5.0])
    return deltas, anchors


HEAD = (10.0, 10.0, 5.0, 5.0)
CASES = [
    Case("ordinary", "decode_proposals", _make(37), probe=True),
    Case("head_weights", "decode_proposals", _make(37, weights=HEAD)),
    Case("min_size", "decode_proposals", _make(37, min_size=9.0), probe=True),
    Case("large_scales", "decode_proposals", _make(300, scale=4.0)),
    Case("odd_values", "decode_proposals", _make(30, changed=_odd), probe=True),
    Case("strided", "decode_proposals", _make(20, changed=_strided)),
    Case("bfloat16", "decode_proposals", _make(20, changed=_half)),
    Case("one", "decode_proposals", _make(1)),
    Case("none", "decode_proposals", _make(0)),
    Case("image_without_pixels", "decode_proposals", _make(5, size=(0, 0))),
    Case("before_nms", "decode_proposals", _make(8819, (832, 1344)), "Mask R-CNN, 2000 proposals a level of an image",
         traffic=8819 * 49),
    Case("all_anchors", "decode_proposals", _make(261_888, (1024, 1024)), "Mask R-CNN, all anchors of 1024 x 1024",
         traffic=261_888 * 49),
]  # fmt: skip
