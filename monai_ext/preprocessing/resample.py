"""Which axis of a volume is too coarse to be interpolated like the others (nnU-Net v2, Isensee et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

ANISOTROPY_THRESHOLD = 3.0  # nnU-Net: an axis is coarse from here on


def needs_separate_axis(spacing: Sequence[float], new_spacing: Sequence[float]) -> int | None:
    """Axis to resample with order 0, because it is more than three times coarser than the finest, or None.

    The present spacing decides if it is anisotropic itself, else the new one. Several equally coarse axes: None.
    """
    for candidate in (spacing, new_spacing):
        coarsest = max(candidate)
        if coarsest / min(candidate) > ANISOTROPY_THRESHOLD:
            axes = [axis for axis, value in enumerate(candidate) if value == coarsest]
            return axes[0] if len(axes) == 1 else None
    return None
