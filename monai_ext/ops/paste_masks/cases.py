"""Inputs of `paste_masks`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from monai_ext.ops.case import Case


def _blobs(random: torch.Generator, count: int, cells: int) -> torch.Tensor:
    """Soft ellipses of random centre and radii `[count, cells, cells]`, as a mask head predicts them."""
    axis = (torch.arange(cells) + 0.5) / cells
    centre = 0.4 + 0.2 * torch.rand((count, 2, 1, 1), generator=random)
    radius = 0.25 + 0.3 * torch.rand((count, 2, 1, 1), generator=random)
    y, x = axis[None, :, None], axis[None, None, :]
    distance = ((x - centre[:, 0]) / radius[:, 0]) ** 2 + ((y - centre[:, 1]) / radius[:, 1]) ** 2
    return torch.sigmoid(6 * (1 - distance))


def _boxes(random: torch.Generator, count: int, height: int, width: int, low: float, high: float) -> torch.Tensor:
    """Boxes with sides from `low` to `high`, some of them partly or wholly outside of the image."""
    centre = torch.rand((count, 2), generator=random) * torch.tensor([width, height]) * 1.1
    half = (low + (high - low) * torch.rand((count, 2), generator=random)) / 2
    return torch.cat([centre - half, centre + half], 1)


def _many(
    count: int,
    height: int,
    width: int,
    low: float,
    high: float,
    cells: int = 28,
    dtype: torch.dtype = torch.float32,
    noise: bool = False,
    changed: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    threshold: float = 0.5,
) -> Callable[[torch.Generator], tuple[Any, ...]]:
    def make(random: torch.Generator) -> tuple[Any, ...]:
        masks = torch.rand((count, cells, cells), generator=random) if noise else _blobs(random, count, cells)
        boxes = _boxes(random, count, height, width, low, high)
        return changed(masks.to(dtype)), boxes, height, width, threshold

    return make


def _given(
    masks: Callable[[torch.Generator, int], torch.Tensor], boxes: list[list[float]], height: int = 24, width: int = 32
) -> Callable[[torch.Generator], tuple[Any, ...]]:
    def make(random: torch.Generator) -> tuple[Any, ...]:
        return masks(random, len(boxes)), torch.tensor(boxes).reshape(-1, 4), height, width

    return make


def _noise(random: torch.Generator, count: int) -> torch.Tensor:
    return torch.rand((count, 7, 7), generator=random)


def _with_nan(random: torch.Generator, count: int) -> torch.Tensor:
    masks = _noise(random, count) + 0.3
    masks[:, 2:4, 3] = torch.nan
    return masks


def _single(box: list[float], height: int = 24, width: int = 32) -> Callable[[torch.Generator], tuple[Any, ...]]:
    def make(random: torch.Generator) -> tuple[Any, ...]:
        return torch.rand((28, 28), generator=random), torch.tensor(box), height, width

    return make


_INF, _NAN = float("inf"), float("nan")
_ODD = [
    [3.0, 4.0, 3.0, 9.0],
    [9.0, 4.0, 3.0, 9.0],
    [_NAN, 0.0, 5.0, 5.0],
    [0.0, 0.0, _INF, 5.0],
    [-1e30, -1e30, -1e29, 5.0],
    [40.0, 3.0, 50.0, 9.0],
    [-9.0, -9.0, 0.0, 0.0],
    [5.2, 6.3, 5.7, 6.9],
    [3.3, 2.1, 20.7, 17.8],
]
_HUGE = [[-1e30, -1e30, 1e30, 1e30], [-400.0, -300.0, 900.0, 700.0]]

CASES = [
    Case("overlapping", "paste_masks", _many(12, 37, 51, 5, 30), probe=True),
    Case("noise", "paste_masks", _many(9, 40, 33, 4, 40, cells=14, noise=True), probe=True),
    Case("low_threshold", "paste_masks", _many(6, 40, 33, 4, 20, threshold=0.05)),
    Case("one_cell", "paste_masks", _many(4, 20, 30, 4, 12, cells=1, noise=True)),
    Case("one_pixel", "paste_masks", _many(2, 1, 1, 3, 9, noise=True)),
    Case("no_masks", "paste_masks", _given(_noise, [])),
    Case("no_pixels", "paste_masks", _given(_noise, [[0.0, 0.0, 9.0, 9.0]], 0, 5)),
    Case("degenerate", "paste_masks", _given(_noise, _ODD), probe=True),
    Case("extreme", "paste_masks", _given(_noise, _HUGE), probe=True),
    Case("nan", "paste_masks", _given(_with_nan, [[1.5, 2.5, 20.0, 19.0], [8.0, 8.0, 31.0, 23.0]]), probe=True),
    Case("half_everywhere", "paste_masks", _given(lambda _, n: torch.full((n, 5, 5), 0.5), [[1.3, 2.2, 9.1, 8.7]])),
    Case("strided", "paste_masks", _many(6, 30, 30, 5, 20, changed=lambda m: m.transpose(1, 2)[:, ::2])),
    Case("bfloat16", "paste_masks", _many(8, 37, 51, 5, 30, dtype=torch.bfloat16), probe=True),
    Case("float16", "paste_masks", _many(5, 37, 51, 5, 30, dtype=torch.float16)),
    Case("single", "paste_mask", _single([3.3, -2.1, 20.7, 17.8]), probe=True),
    Case("single_outside", "paste_mask", _single([40.0, 3.0, 50.0, 9.0])),
    Case("nuclei", "paste_masks", _many(500, 512, 512, 14, 30), recipe="mask_rcnn", traffic=500 * 784 * 4 + 512**2 * 4),
    Case(
        "coco",
        "paste_masks",
        _many(100, 832, 1344, 40, 400),
        recipe="mask_rcnn",
        traffic=100 * 784 * 4 + 832 * 1344 * 4,
    ),
]
