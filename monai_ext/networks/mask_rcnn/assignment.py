"""Which level of a feature pyramid a region is pooled from."""

from __future__ import annotations

import torch


def assign_levels(
    boxes: torch.Tensor,
    first_level: int = 2,
    last_level: int = 5,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
) -> torch.Tensor:
    """Level by size: `floor(canonical_level + log2(sqrt(w h) / canonical_size))` within the levels there are.

    Lin et al. 2017 (feature pyramid networks), equation 1.

    Args:
        boxes: `[R, 4]` (x0, y0, x1, y1) in pixels of the image.
        first_level, last_level: of the pyramid; level l has stride 2^l.
        canonical_size, canonical_level: a region of this size (square root of its area) is pooled from this level.

    Returns:
        `[R]` int64, position among the levels: 0 is `first_level`. Boxes without area, or not finite, get 0 (an
        infinite one the last).

    Raises:
        ValueError: boxes are not `[R, 4]`, the levels are in the wrong order, or the size is not positive.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be [R, 4], got {tuple(boxes.shape)}")
    if first_level > last_level:
        raise ValueError(f"the first level, {first_level}, is above the last, {last_level}")
    if canonical_size <= 0:
        raise ValueError(f"the canonical size must be positive, got {canonical_size}")
    sides = (boxes[:, 2:].float() - boxes[:, :2].float()).clamp_min(0)
    size = (sides[:, 0] * sides[:, 1]).sqrt()
    # the small term keeps the logarithm finite without area, and whole powers of two from rounding below themselves
    level = torch.floor(canonical_level + torch.log2(size / canonical_size + 1e-8))
    return level.nan_to_num(nan=first_level).clamp(first_level, last_level).long() - first_level
