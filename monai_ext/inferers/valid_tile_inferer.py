"""Overlap-tile prediction of whole slices by a network of unpadded convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers import Inferer

from monai_ext.errors import InputError
from monai_ext.inferers.bfloat16_inferer import BFloat16Inferer
from monai_ext.inferers.window_positions import check_overlap, window_positions
from monai_ext.inferers.windows import constant_weights, gaussian_weights
from monai_ext.planning.valid_sizes import (
    border,
    check_input_size,
    input_size_for,
    smallest_input_size,
    valid_output_size,
)
from monai_ext.transforms.mirrored_tile import mirror_indices

BLENDS = ("gaussian", "constant")
LARGEST = 1036  # network input in pixels; 64 features of this size take 275 MB in float32


class ValidTileInferer(Inferer):
    """Class probabilities of slices of any size, tile by tile (Ronneberger et al. 2015, figure 2).

    The slice is mirrored beyond its border by the pixels that the network takes in and does not give. Tiles of the
    output are evenly spread, the last one flush with the end; where they overlap, their probabilities are averaged with
    weights that fall off towards the border of a tile.

    Args:
        input_size: of the network, (y, x) in pixels; empty takes a slice in one piece as long as that is not larger
            than `LARGEST`.
        levels: of the network.
        sw_batch_size: tiles per call of the network.
        overlap: shared fraction of neighbouring tiles, in [0, 1).
        blend: `gaussian` or `constant`.
        cpu_bfloat16: call the network in mixed precision on a CPU.

    Raises:
        InputError: overlap outside [0, 1), unknown blend.
    """

    def __init__(
        self,
        input_size: Sequence[int] = (),
        levels: int = 4,
        sw_batch_size: int = 4,
        overlap: float = 0.25,
        blend: str = "gaussian",
        cpu_bfloat16: bool = False,
    ) -> None:
        super().__init__()
        check_overlap(overlap)
        if blend not in BLENDS:
            raise InputError(f"blend: unknown value {blend!r}. Cure: use one of {', '.join(BLENDS)}")
        self.input_size = tuple(int(size) for size in input_size)
        if self.input_size:
            height, width = self.input_size
            check_input_size(height, width, levels, "roi_size")
        self.levels = levels
        self.margin = border(levels)
        self.sw_batch_size = int(sw_batch_size)
        self.overlap = float(overlap)
        self.blend = blend
        self._call = BFloat16Inferer(cpu_bfloat16)

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map slices `[B, C, H, W]` to probabilities `[B, K, H, W]` float32, the softmax of the network's logits."""
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        height, width = image.shape[-2:]
        tile = self._tile(height, width)
        starts = list(product(*window_positions((height, width), tile, self.overlap)))
        windows = [(item, *start) for item in range(image.shape[0]) for start in starts]
        # slices smaller than a tile are mirrored further, and the rest of the tile is not used
        rows, columns = (
            mirror_indices(-self.margin, max(size, tile) + 2 * self.margin, size).to(image.device)
            for size, tile in zip((height, width), tile, strict=True)
        )
        weights = (gaussian_weights if self.blend == "gaussian" else constant_weights)(tile).to(image.device)
        sums = total = None
        for first in range(0, len(windows), self.sw_batch_size):
            batch = windows[first : first + self.sw_batch_size]
            tiles = torch.stack(
                [
                    image[item][:, rows[y : y + tile[0] + 2 * self.margin]][
                        :, :, columns[x : x + tile[1] + 2 * self.margin]
                    ]
                    for item, y, x in batch
                ]
            )
            outputs = self._call(tiles, network, *args, **kwargs).float().softmax(1)
            if sums is None:
                sums = outputs.new_zeros((image.shape[0], outputs.shape[1], height, width))
                total = outputs.new_zeros((image.shape[0], 1, height, width))
            assert total is not None
            for (item, y, x), output in zip(batch, outputs, strict=True):
                h, w = min(tile[0], height - y), min(tile[1], width - x)
                inside = (slice(None), slice(y, y + h), slice(x, x + w))
                sums[item][inside] += output[:, :h, :w] * weights[:h, :w]
                total[item][inside] += weights[:h, :w]
        assert sums is not None
        assert total is not None
        return sums / total

    def _tile(self, height: int, width: int) -> tuple[int, int]:
        """Output pixels of a tile for a slice of that size."""
        sizes = self.input_size or tuple(self._fitting(n) for n in (height, width))
        h, w = (valid_output_size(size, self.levels) for size in sizes)
        return h, w

    def _fitting(self, pixels: int) -> int:
        """Smallest network input that covers an axis with as few tiles as inputs up to `LARGEST` allow."""
        tiles = 1
        while True:
            # n tiles that share the fraction `overlap` reach over 1 + (n - 1) (1 - overlap) tiles
            size = input_size_for(math.ceil(pixels / (1 + (tiles - 1) * (1 - self.overlap))), self.levels)
            if size <= max(LARGEST, smallest_input_size(self.levels)):
                return size
            tiles += 1
