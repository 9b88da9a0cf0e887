"""Which bundle a `plan.json` belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

# fields that the plan of one bundle has and no other
SIGNS = {
    "nnunet": "patch_size",
    "unet_em": "geometry",
    "se_resnext101": "stem_pool",
    "mask_rcnn": "anchor_sizes",
}
# their types, which are imported when they are needed
TYPES = {
    "nnunet": "monai_ext.planning.plan:Plan",
    "unet_em": "monai_ext.planning.em_plan:EmPlan",
    "se_resnext101": "monai_ext.planning.class_plan:ClassPlan",
    "mask_rcnn": "monai_ext.planning.instance_plan:InstancePlan",
}


def bundle_of(content: Mapping[str, Any]) -> str:
    """Name of the bundle whose plan this is, by its fields; empty if it is none's."""
    found = [bundle for bundle, field in SIGNS.items() if field in content]
    return found[0] if len(found) == 1 else ""


def plan_type(bundle: str) -> Any:
    """The dataclass of a bundle's plans."""
    module, _, name = TYPES[bundle].partition(":")
    return getattr(import_module(module), name)
