"""`dataset.json` of the Medical Segmentation Decathlon and of nnU-Net v2: read and checked field by field."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, ValidationError

from monai_ext.errors import InputError, Problems


class ListedCase(BaseModel):
    """A case of `training` or `test`: one image or one per channel, relative to the folder, and a label map."""

    model_config = ConfigDict(extra="ignore")
    image: StrictStr | list[StrictStr]
    label: StrictStr | None = None


class Description(BaseModel):
    """Fields of `dataset.json` that are used; others are free."""

    model_config = ConfigDict(extra="ignore")
    name: StrictStr | None = None
    tensorImageSize: StrictStr | None = None  # noqa: N815 (the format's own name)
    modality: dict[str, StrictStr] | list[StrictStr] | None = None
    channel_names: dict[str, StrictStr] | list[StrictStr] | None = None
    labels: dict[str, StrictInt | StrictFloat | StrictStr | list[StrictInt]] = Field(min_length=2)
    numTraining: StrictInt | None = None  # noqa: N815
    training: list[ListedCase] | None = None
    test: list[StrictStr | ListedCase] = []
    file_ending: StrictStr | None = None


def read_description(folder: Path) -> Description:
    """`dataset.json` of a folder.

    Raises:
        InputError: no folder, no file, no JSON, or fields that are missing or of another type; all are listed.
    """
    if not folder.is_dir():
        near = nearest_name(folder.name, [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else [])
        raise InputError(f"{folder}: dataset folder does not exist{near}. Cure: correct the path (key dataset_dir)")
    path = folder / "dataset.json"
    if not path.is_file():
        inside = [p.parent.name for p in sorted(folder.glob("*/dataset.json"))]
        hint = f"; did you mean {folder / inside[0]}?" if inside else ""
        raise InputError(
            f"{folder}: has no dataset.json{hint}. Cure: write one in the format of the Medical Segmentation "
            "Decathlon, with modality, labels and training"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: not JSON, line {error.lineno}, column {error.colno}: {error.msg}. Cure: correct that place"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}). Cure: save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of nested brackets
        raise InputError(f"{path}: not JSON that can be read ({error}). Cure: write it as the Decathlon does") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be an object {{...}}, found {type(content).__name__}. Cure: see the Decathlon")
    try:
        return Description.model_validate(content)
    except ValidationError as error:
        problems = Problems(str(path))
        for where, what in _validation_lines(error):
            problems.add(where, what, "correct it as in the Decathlon's dataset.json")
        problems.raise_if_any()
        raise


def _validation_lines(error: ValidationError) -> list[tuple[str, str]]:
    """One line per field: the alternatives of a union that did not fit are joined."""
    by_field: dict[str, tuple[list[str], Any]] = {}
    for detail in error.errors():
        # names of the alternatives of a union ("str", "list[str]", "ListedCase") are no part of the person's file
        place = [
            str(p)
            for p in detail["loc"]
            if not str(p).startswith(("str", "int", "float", "list[", "dict[", "ListedCase"))
        ]
        key = ".".join(place[:3])
        messages, _ = by_field.setdefault(key, ([], detail.get("input")))
        messages.append(detail["msg"])
    lines = []
    for key, (messages, value) in by_field.items():
        missing = messages == ["Field required"]
        found = "" if missing else f", found {_short(value)}"
        lines.append((key, ("is missing" if missing else " or ".join(dict.fromkeys(messages))) + found))
    return lines


def nearest_name(name: str, candidates: list[str]) -> str:
    """For a message: the name that was probably meant, in brackets; empty if none is near."""
    near = difflib.get_close_matches(name, candidates, n=1)
    return f" (nearest name: {near[0]})" if near else ""


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
