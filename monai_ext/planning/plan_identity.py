"""Which plan weights were trained with: a digest of it travels inside of `model.pt`.

Weights of another training may have the same shapes and load without a word, and then predict from images that were
prepared in another way. PyTorch keeps notes of each module beside the tensors of a state dict (`_metadata`), and
unpickles them with `weights_only=True`; readers that do not know this one pass over it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import MutableMapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from monai_ext.errors import InputError
from monai_ext.planning.plan_file import read_plan_file
from monai_ext.planning.plan_kinds import bundle_of, plan_type

NOTE = "monai_ext_plan_sha256"
# what a person may change after the training: how much is looked for at a time and what is kept of it, and remarks
FREE = frozenset(
    (
        *("why", "version", "batch_size", "max_detections", "rpn_pre_nms", "rpn_post_nms", "rpn_nms", "box_nms"),
        *("score_threshold", "label_threshold", "tile_overlap", "min_area", "crop_ratio", "interpolation"),
    )
)


def plan_digest(plan: Any) -> str:
    """SHA-256, hexadecimal, of the fields of a plan (a dataclass) that results depend on.

    Fields at their default do not count, so that a field that a later version adds leaves digests as they are.
    """
    usual = {
        field.name: field.default_factory() if field.default_factory is not MISSING else field.default
        for field in fields(plan)
    }
    content = {
        name: value for name, value in asdict(plan).items() if name not in FREE and getattr(plan, name) != usual[name]
    }
    # 12 and 12.0 are the same to whoever reads a plan
    equal = json.loads(json.dumps(content), parse_int=float)
    return hashlib.sha256(json.dumps(equal, sort_keys=True).encode()).hexdigest()


def digest_of_file(path: str | Path) -> str:
    """As `plan_digest`, of a `plan.json` of any bundle; empty if the file is missing or no plan."""
    try:
        bundle = bundle_of(read_plan_file(path))
        return plan_digest(plan_type(bundle).load(path)) if bundle else ""
    except (InputError, OSError):
        return ""


def note_plan(state: MutableMapping[str, Any], plan_path: str | Path) -> None:
    """Put the digest of a plan file into the notes of a state dict of `torch.nn.Module`, if there are both."""
    notes, digest = getattr(state, "_metadata", None), digest_of_file(plan_path)
    if notes is not None and digest:
        notes.setdefault("", {})[NOTE] = digest


def noted_plan(state: Any) -> str:
    """The digest in a state dict, empty if there is none."""
    notes = getattr(state, "_metadata", None)
    own = notes.get("") if isinstance(notes, dict) else None
    found = own.get(NOTE) if isinstance(own, dict) else None
    return found if isinstance(found, str) else ""


def require_same_training(state: Any, path: str | Path) -> None:
    """Compare the digest in the state dict that a file holds with the `plan.json` beside the file.

    Files of earlier versions and of others hold none, and pass; so do those without a plan beside them.

    Raises:
        InputError: the weights were trained with another plan.
    """
    plan_path = Path(path).parent / "plan.json"
    found = noted_plan(state)
    beside = digest_of_file(plan_path) if found else ""
    if beside and found != beside:
        raise InputError(
            f"{path}: was trained with another plan than {plan_path}, even if its weights fit. "
            "Cure: keep model.pt and plan.json of one training together"
        )
