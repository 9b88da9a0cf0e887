"""Plans as JSON files: any frozen dataclass, with errors that name the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from monai_ext.errors import InputError
from monai_ext.planning.plan_kinds import bundle_of

T = TypeVar("T")


def read_plan_file(path: str | Path) -> dict[str, Any]:
    """Decoded content of a `plan.json`.

    Raises:
        InputError: the file is missing or not a JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: plan not found. Cure: keep plan.json beside model.pt, or train first")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}). Cure: restore the plan or delete it to plan again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is no JSON object. Cure: restore the plan or delete it to plan again")
    return content


def plan_from_dict(cls: type[T], content: Mapping[str, Any], source: str | Path = "plan") -> T:
    """Build a plan, a dataclass of type `cls`, from decoded JSON.

    Raises:
        InputError: a field is missing, unknown or of another type, all of them are listed; or it is a plan of another
            bundle.
    """
    fields: Mapping[str, Any] = cls.__dataclass_fields__  # type: ignore[attr-defined]
    unknown = sorted(set(content) - set(fields))
    bundle = bundle_of(content)
    if unknown and bundle and bundle != bundle_of(fields):
        raise InputError(
            f"{source}: is a plan of the bundle {bundle}, this is {bundle_of(fields)}. "
            f"Cure: the configs of bundles/{bundle}, or a model of this bundle"
        )
    if unknown:
        raise InputError(f"{source}: unknown fields {unknown}. Cure: remove them or restore the original plan")
    try:
        return TypeAdapter(cls).validate_python(dict(content))
    except ValidationError as error:
        lines = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']} (found {e['input']!r:.60})" for e in error.errors()]
        raise InputError("\n  - ".join([f"{source} is not a valid plan. Cure: mend these fields", *lines])) from error
