"""Plans of small segmentation networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from monai_ext.planning.plan import Plan

PLAN = Path(__file__).parents[1] / "bundles" / "nnunet" / "configs" / "default_plan.json"


def small_plan(**changes: Any) -> Plan:
    """Two levels, four features; axes and windows of 3D unless changed."""
    plan = Plan.load(PLAN)
    small = {
        "axes": (0, 1, 2),
        "spacing": (1.0, 1.0, 1.0),
        "patch_size": (8, 16, 16),
        "strides": ((1, 1, 1), (2, 2, 2)),
        "kernels": ((3, 3, 3), (3, 3, 3)),
        "features": (4, 8),
        "crop": "nonzero",
        "mirror_axes": (0, 1, 2),
    }
    return replace(plan, **{**small, **changes})


def flat_plan(**changes: Any) -> Plan:
    """The same for slices."""
    flat = {
        "spatial_dims": 2,
        "axes": (0, 1),
        "spacing": (1.0, 1.0),
        "patch_size": (16, 16),
        "strides": ((1, 1), (2, 2)),
        "kernels": ((3, 3), (3, 3)),
        "mirror_axes": (0, 1),
        "median_shape": (20, 20),
    }
    return small_plan(**{**flat, **changes})
