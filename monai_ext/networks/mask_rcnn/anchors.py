"""Anchors: the boxes of fixed sizes and shapes from which a region proposal network starts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import sqrt

import torch

KEPT_GRIDS = 32  # image sizes of which the anchors are kept


class AnchorGrid:
    """Anchors of every cell of every level of a feature pyramid (Ren et al. 2015; Lin et al. 2017).

    An anchor of size s and ratio r is `s / sqrt(r)` wide and `s * sqrt(r)` high. That of cell (i, j) is centred on
    `((j + offset) * stride, (i + offset) * stride)`.

    Args:
        sizes: one sequence of sizes (pixels, square root of the area) per level.
        ratios: height over width, the same at all levels.
        strides: pixels from cell to cell, one per level.
        offset: 0 as in torchvision and detectron2, whose weights need it; 0.5 centres anchors on the cells.
        round: whether the anchors at the origin are rounded to whole pixels (ties to even), as torchvision does.

    Raises:
        ValueError: lengths differ, or a size, ratio or stride is not positive, or the offset is not in [0, 1).
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        offset: float = 0.0,
        round: bool = False,
    ) -> None:
        if len(sizes) != len(strides) or not strides:
            raise ValueError(
                f"anchors: sizes must hold one sequence per stride, got {len(sizes)} for {len(strides)} strides"
            )
        if any(len(level) == 0 for level in sizes) or not ratios:
            raise ValueError("anchors: every level needs a size, and there must be a ratio")
        if any(value <= 0 for row in (*sizes, ratios, strides) for value in row):
            raise ValueError(
                f"anchors: sizes, ratios and strides must be positive, got {sizes}, {list(ratios)}, {list(strides)}"
            )
        if not 0 <= offset < 1:
            raise ValueError(f"anchors: the offset is a part of the stride from 0 to below 1, got {offset}")
        self.sizes = tuple(tuple(float(size) for size in level) for level in sizes)
        self.ratios = tuple(float(ratio) for ratio in ratios)
        self.strides = tuple(int(stride) for stride in strides)
        self.offset, self.round = float(offset), bool(round)
        self._grids: OrderedDict[tuple[tuple[tuple[int, int], ...], torch.device], list[torch.Tensor]] = OrderedDict()

    @property
    def per_cell(self) -> tuple[int, ...]:
        """Anchors of a cell, for every level."""
        return tuple(len(level) * len(self.ratios) for level in self.sizes)

    def at_origin(self, level: int) -> torch.Tensor:
        """Anchors `[A, 4]` float32 of the level with this index, centred on (0, 0); sizes run faster than ratios."""
        half = [(s / sqrt(r) / 2, s * sqrt(r) / 2) for r in self.ratios for s in self.sizes[level]]
        anchors = torch.tensor([(-w, -h, w, h) for w, h in half], dtype=torch.float64)
        return (anchors.round() if self.round else anchors).float()

    def __call__(
        self, feature_sizes: Sequence[Sequence[int]], device: torch.device | str = "cpu"
    ) -> list[torch.Tensor]:
        """Anchors of all levels, not clipped to the image; the same tensors for the same sizes, not to be changed.

        Args:
            feature_sizes: (height, width) of the features of every level.
            device: where the anchors are to be.

        Returns:
            one `[H * W * A, 4]` float32 per level: rows of cells, then cells, then the anchors of a cell.

        Raises:
            ValueError: there is not one size per level.
        """
        if len(feature_sizes) != len(self.strides):
            raise ValueError(f"anchors: {len(feature_sizes)} feature maps for {len(self.strides)} levels")
        key = (tuple((int(h), int(w)) for h, w in feature_sizes), torch.device(device))
        if key not in self._grids:
            self._grids[key] = [self._level(index, *size).to(device) for index, size in enumerate(key[0])]
            if len(self._grids) > KEPT_GRIDS:
                self._grids.popitem(last=False)
        self._grids.move_to_end(key)
        return list(self._grids[key])

    def _level(self, index: int, height: int, width: int) -> torch.Tensor:
        stride = self.strides[index]
        y = (torch.arange(height, dtype=torch.float32) + self.offset) * stride
        x = (torch.arange(width, dtype=torch.float32) + self.offset) * stride
        centres = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).repeat(1, 1, 2)
        return (centres.reshape(-1, 1, 4) + self.at_origin(index)).reshape(-1, 4)
