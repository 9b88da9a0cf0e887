"""`fold.json` beside a model: which cases it was trained on, so that they are not used to score it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monai_ext.errors import InputError

CURE = "restore it from a copy of the training's folder; without it, move it away: scores are then of unknown cases"


def read_fold_file(path: Path) -> dict[str, Any]:
    """Content of a `fold.json`: `train` and `val`, lists of names; perhaps `data`, text, and `contents`, a list.

    Raises:
        InputError: it cannot be read, or has another form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error!s:.200}). Cure: {CURE}") from error
    fits = isinstance(content, dict) and all(_is_names(content.get(part)) for part in ("train", "val"))
    if not fits or not isinstance(content.get("data", ""), str) or not _is_names(content.get("contents", [])):
        raise InputError(f"{path}: does not list the cases of a training by 'train' and 'val'. Cure: {CURE}")
    return content


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
