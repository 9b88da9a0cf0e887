"""Features of regions, from the level of the pyramid that fits the size of each."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.ops.roi_align import multiscale_roi_align


class RegionPool:
    """RoIAlign of the levels P2 to P5 (He et al. 2017; Lin et al. 2017); sums are float32 under autocast too.

    Args:
        strides: pixels of the image per cell, one per level that is pooled from.
        sampling: samples per axis of a bin; 0 adapts.
        aligned: with the half pixel shift.
        canonical_size, canonical_level: a region of this size is pooled from this level; the first one is 2.
    """

    def __init__(
        self,
        strides: Sequence[int],
        sampling: int = 2,
        aligned: bool = True,
        canonical_size: float = 224.0,
        canonical_level: int = 4,
    ) -> None:
        self.strides = tuple(strides)
        self.sampling, self.aligned = sampling, aligned
        self.canonical_size, self.canonical_level = canonical_size, canonical_level

    def __call__(self, features: Sequence[torch.Tensor], rois: torch.Tensor, size: int) -> torch.Tensor:
        """`[R, C, size, size]`, channels last, of regions `[R, 5]` (image, x0, y0, x1, y1); no gradient to regions.

        Args:
            features: `[B, C, H_l, W_l]` of the levels; more levels than strides are left out.
            rois: float32.
            size: bins along each axis.
        """
        return multiscale_roi_align(
            features[: len(self.strides)],
            rois,
            (size, size),
            self.strides,
            self.sampling,
            self.aligned,
            self.canonical_size,
            self.canonical_level,
        )


def as_rois(boxes: Sequence[torch.Tensor]) -> torch.Tensor:
    """Regions `[R, 5]` float32 from the boxes `[R_i, 4]` of each image: the number of the image goes in front."""
    images = [torch.full_like(one[:, :1], number) for number, one in enumerate(boxes)]
    return torch.cat([torch.cat(images), torch.cat(list(boxes))], dim=1)
