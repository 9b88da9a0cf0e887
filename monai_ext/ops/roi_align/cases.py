"""Inputs of `roi_align`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from monai_ext.ops.case import Case, channels_last, strided

ROUNDED = (
    "bfloat16 keeps 8 bits: inputs are exact in it; outputs, gradients of them and of maps are rounded (interpreted "
    "Triton cuts)"
)
SUMS = "many regions add to a pixel, and their number times float32's rounding is what remains"


def _boxes(
    random: torch.Generator, count: int, batch: int, extent: tuple[float, float], sides: tuple[float, float]
) -> torch.Tensor:
    """Regions `[R, 5]` around centres in the image of `extent` (height, width), some over its edges."""
    drawn = torch.rand((count, 4), generator=random)
    size = sides[0] + drawn[:, 2:] * (sides[1] - sides[0])
    centre = drawn[:, :2] * torch.tensor([extent[1], extent[0]])
    image = torch.randint(0, max(batch, 1), (count, 1), generator=random).float()
    return torch.cat([image, centre - size / 2, centre + size / 2], 1)


def _make(
    shape: tuple[int, int, int, int],
    count: int = 3,
    output_size: tuple[int, int] = (2, 3),
    scale: float = 0.25,
    sampling: int = 2,
    aligned: bool = True,
    sides: tuple[float, float] = (4.0, 30.0),
    dtype: torch.dtype = torch.float32,
    layout: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    magnitude: float = 1.0,
    offset: float = 0.0,
    rois: list[list[float]] | None = None,
) -> Callable[[torch.Generator], tuple[Any, ...]]:
    def make(random: torch.Generator) -> tuple[Any, ...]:
        x = torch.randn(shape, generator=random).mul_(magnitude).add_(offset).to(dtype)
        boxes = _boxes(random, count, shape[0], (shape[2] / scale, shape[3] / scale), sides)
        if rois is not None:
            boxes = torch.tensor(rois)
        return layout(x).detach().requires_grad_(), boxes, output_size, scale, sampling, aligned

    return make


def _pyramid(
    base: tuple[int, int, int, int],
    count: int,
    output_size: tuple[int, int] = (7, 7),
    sides: tuple[float, float] = (8.0, 120.0),
    sampling: int = 2,
    dtype: torch.dtype = torch.float32,
    canonical_size: float = 224.0,
) -> Callable[[torch.Generator], tuple[Any, ...]]:
    """Four levels of strides 4 to 32; `base` is the shape of the finest."""

    def make(random: torch.Generator) -> tuple[Any, ...]:
        batch, channels, height, width = base
        maps = [torch.randn((batch, channels, height >> k, width >> k), generator=random) for k in range(4)]
        maps = [channels_last(value.to(dtype)).requires_grad_() for value in maps]
        boxes = _boxes(random, count, batch, (4.0 * height, 4.0 * width), sides)
        return maps, boxes, output_size, (4, 8, 16, 32), sampling, True, canonical_size

    return make


def _with_nan(x: torch.Tensor) -> torch.Tensor:
    x[0, 1, 0, 0] = torch.nan
    x[0, 2, 4, 6] = torch.inf
    return x


# on a map of 8 x 12 at scale 1: off it on every side, over its edges, on them, without area, turned round, not numbers
ODD = [
    [0.0, -20.0, -20.0, -10.0, -10.0],
    [0.0, 30.0, 2.0, 40.0, 6.0],
    [1.0, -2.5, -1.5, 7.5, 3.5],
    [1.0, 0.0, 0.0, 6.0, 3.0],
    [0.0, 5.5, 2.5, 6.5, 3.5],
    [0.0, 2.0, 1.5, 2.0, 1.5],
    [0.0, 1.5, 1.0, 1.75, 1.25],
    [1.0, 4.5, 2.5, 1.0, 0.5],
    [0.0, float("nan"), 1.0, 4.0, 5.0],
    [0.0, -1e30, 1.0, 1e30, 5.0],
    [1.0, 0.0, 0.0, float("inf"), 5.0],
]
WIDE = [[0.0, 1.0, 0.5, 30.0, 1.5], [0.0, 10.0, 0.0, 38.0, 2.0]]


def _bytes(shape: tuple[int, int, int, int], count: int, output_size: tuple[int, int]) -> int:
    """The map's gradient is written, the output and its gradient pass once each; the map is hardly read as a whole."""
    batch, channels, height, width = shape
    return 4 * channels * (batch * height * width + 2 * count * output_size[0] * output_size[1])


FINE = (1, 256, 64, 64)
SMALL = (1, 64, 64, 64)
PYRAMID = (4, 64, 32, 32)

CASES = [
    Case("contiguous", "roi_align", _make((2, 5, 3, 5), 2), probe=True),
    Case("channels_last", "roi_align", _make((2, 5, 3, 5), 2, layout=channels_last), probe=True),
    Case("unaligned", "roi_align", _make((2, 5, 3, 5), 2, (2, 1), aligned=False, sides=(0.5, 30.0)), probe=True),
    Case("adaptive", "roi_align", _make((2, 3, 4, 5), 2, (1, 2), sampling=0), probe=True),
    Case("adaptive_unaligned", "roi_align",
         _make((1, 3, 3, 5), 2, (2, 1), sampling=0, aligned=False, sides=(0.5, 20.0))),
    Case("one_sample", "roi_align", _make((2, 5, 4, 5), 2, (1, 2), sampling=1)),
    Case("three_samples", "roi_align", _make((1, 3, 4, 5), 2, (2, 1), sampling=3)),
    Case("wider_than_a_tile", "roi_align", _make((1, 3, 2, 37), output_size=(1, 3), scale=1.0, rois=WIDE)),
    Case("not_contiguous", "roi_align", _make((1, 3, 4, 5), 2, (1, 2), layout=strided)),
    Case("one_bin", "roi_align", _make((2, 3, 4, 5), 2, (1, 1))),
    Case("one_pixel", "roi_align", _make((2, 3, 1, 1), 2, (2, 1), scale=1.0, sides=(0.2, 3.0))),
    Case("one_row", "roi_align", _make((1, 3, 1, 9), 2, (2, 2), scale=1.0, sides=(0.2, 5.0))),
    Case("one_channel", "roi_align", _make((2, 1, 3, 4), 2, (1, 2), layout=channels_last)),
    Case("many_channels", "roi_align", _make((1, 343, 2, 3), 1, (2, 1), layout=channels_last)),
    Case("many_regions", "roi_align", _make((1, 2, 1, 5), 12, (1, 1)), tolerance=1e-5, why=SUMS),
    Case("no_regions", "roi_align", _make((2, 3, 5, 6), 0)),
    Case("odd_regions", "roi_align", _make((2, 3, 3, 6), output_size=(2, 1), scale=1.0, rois=ODD), probe=True),
    Case("odd_regions_unaligned", "roi_align",
         _make((2, 3, 3, 6), output_size=(1, 1), scale=1.0, aligned=False, rois=ODD)),
    Case("odd_regions_adaptive", "roi_align",
         _make((2, 2, 3, 6), output_size=(1, 2), scale=1.0, sampling=0, rois=ODD[3:9])),
    Case("nan", "roi_align", _make((1, 3, 5, 7), 3, (1, 2), scale=1.0, sides=(1.0, 4.0), layout=_with_nan)),
    Case("large_values", "roi_align", _make((1, 3, 3, 4), 2, (1, 2), magnitude=1e30)),
    Case("large_offset", "roi_align", _make((1, 3, 3, 4), 2, (2, 1), offset=1e4)),
    Case("far_from_the_origin", "roi_align", _make((1, 2, 1, 300), 2, (1, 2), sides=(4.0, 12.0))),
    Case("bfloat16", "roi_align", _make((1, 20, 3, 4), 2, (1, 2), dtype=torch.bfloat16), tolerance=1.2e-2, why=ROUNDED),
    Case("bfloat16_channels_last", "roi_align",
         _make((1, 70, 3, 4), 2, (2, 1), dtype=torch.bfloat16, layout=channels_last), tolerance=1.2e-2, why=ROUNDED),
    Case("float16", "roi_align", _make((1, 5, 3, 4), 2, (1, 2), dtype=torch.float16), tolerance=1e-3,
         why="float16 keeps 11 bits"),
    Case("pyramid", "multiscale_roi_align", _pyramid((2, 3, 8, 8), 4, (2, 1), (4.0, 40.0), canonical_size=24.0),
         probe=True),
    Case("pyramid_adaptive", "multiscale_roi_align",
         _pyramid((1, 3, 8, 8), 2, (1, 2), (4.0, 32.0), 0, canonical_size=36.0)),
    Case("pyramid_no_regions", "multiscale_roi_align", _pyramid((2, 3, 8, 8), 0)),
    Case("boxes", "roi_align",
         _make(FINE, 128, (7, 7), layout=channels_last, sides=(16.0, 112.0)), "mask_rcnn at 256, box head, level 2",
         1e-5, _bytes(FINE, 128, (7, 7)), SUMS),
    Case("masks", "roi_align",
         _make(SMALL, 64, (14, 14), layout=channels_last, sides=(16.0, 112.0)),
         "mask_rcnn with resnet-small at 256, mask head, level 2", 1e-5, _bytes(SMALL, 64, (14, 14)), SUMS),
    Case("pyramid_boxes", "multiscale_roi_align", _pyramid(PYRAMID, 256),
         "mask_rcnn with resnet-small at 128, batch 4, box head", 1e-5, _bytes(PYRAMID, 256, (7, 7)) * 4 // 3, SUMS),
    Case("pyramid_boxes_bfloat16", "multiscale_roi_align", _pyramid(PYRAMID, 256, dtype=torch.bfloat16),
         "mask_rcnn with resnet-small at 128, batch 4, box head, amp", 6e-3,
         _bytes(PYRAMID, 256, (7, 7)) * 2 // 3, ROUNDED),
]  # fmt: skip
