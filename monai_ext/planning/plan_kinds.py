"""Which bundle a `plan.json` belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# fields that the plan of one bundle has and no other
SIGNS = {
    "nnunet": "patch_size",
    "unet_em": "geometry",
    "se_resnext101": "stem_pool",
    "mask_rcnn": "anchor_sizes",
}


def bundle_of(content: Mapping[str, Any]) -> str:
    """Name of the bundle whose plan this is, by its fields; empty if it is none's."""
    found = [bundle for bundle, field in SIGNS.items() if field in content]
    return found[0] if len(found) == 1 else ""
