"""Target spacing, axis order and median shape of a training set (nnU-Net's rules, Isensee et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monai_ext.planning.fingerprint import CaseFingerprint

ANISOTROPY = 3.0


@dataclass(frozen=True)
class TargetSpacing:
    """mm per raw axis (z, y, x), and the reason."""

    spacing: tuple[float, ...]
    why: str


def target_spacing(cases: Sequence[CaseFingerprint]) -> TargetSpacing:
    """Median spacing per axis; a much coarser axis that also has far fewer voxels gets its 10th percentile."""
    spacings = np.array([c.spacing for c in cases], dtype=np.float64)
    sizes = np.median(np.array([c.cropped_shape for c in cases], dtype=np.float64), axis=0)
    target = np.median(spacings, axis=0)
    coarse = int(np.argmax(target))
    others = [a for a in range(len(target)) if a != coarse]
    widest, fewest = float(target[others].max()), float(sizes[others].min())
    median = f"median spacing of {len(cases)} cases"
    if not target[coarse] > ANISOTROPY * widest:
        return TargetSpacing(tuple(target.tolist()), f"{median}; no axis is coarser than 3 times the others")
    if not ANISOTROPY * sizes[coarse] < fewest:
        text = f"axis {coarse} is coarse ({target[coarse]:.4g} > 3 x {widest:.4g} mm) but with {sizes[coarse]:g}"
        return TargetSpacing(tuple(target.tolist()), f"{median}; {text} voxels has a third of {fewest:g} or more")
    finer = float(np.percentile(spacings[:, coarse], 10))
    text = f"axis {coarse}: spacing {target[coarse]:.4g} > 3 x {widest:.4g}, 10th percentile {finer:.4g} taken"
    if finer < widest:
        finer = max(widest, finer) + 1e-5
        text += f", raised to {finer:.6g} so that the axis stays the coarsest"
    target[coarse] = finer
    return TargetSpacing(tuple(target.tolist()), f"{median}; {text}")


def axis_order(spacing: Sequence[float]) -> tuple[int, ...]:
    """Coarsest axis first (the first of equal ones), the others in their order."""
    coarse = max(range(len(spacing)), key=lambda a: spacing[a])
    return (coarse, *(a for a in range(len(spacing)) if a != coarse))


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """Voxels per axis after resampling to `target`, rounded half to even; at least 1."""
    return tuple(max(1, round(s / t * n)) for n, s, t in zip(shape, spacing, target, strict=True))


def median_shape(cases: Sequence[CaseFingerprint], target: Sequence[float]) -> tuple[float, ...]:
    """Median size of a cropped case at `target` spacing, per raw axis; may end in .5."""
    shapes = [resampled_shape(c.cropped_shape, c.spacing, target) for c in cases]
    return tuple(float(m) for m in np.median(np.array(shapes), axis=0))
