"""What the classes of a model are in coded terms, and the colour that viewers show them in.

A class name such as `Anterior` tells a machine nothing. DICOM wants a category (anatomical structure, morphologically
altered structure, ...) and a type (liver, neoplasm, ...) of a coding scheme for every segment, as listed in DICOM
PS3.16, context groups 7150 and 7151. Nobody but the person who trained the model knows them, so they come from a JSON
file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.errors import InputError, Problems
from monai_ext.evaluation.overlay_picture import COLOURS

Code = tuple[str, str, str]
# SNOMED CT's most general body structure, which is true of any class of a person's image
TISSUE: Code = ("85756007", "SCT", "Tissue")
PARTS = ("value", "coding scheme", "meaning")
LENGTHS = (16, 16, 64)  # characters that DICOM allows for each part
FIELDS = ("category", "type", "colour")
CURE = 'write {"CLASS": {"category": [VALUE, SCHEME, MEANING], "type": [VALUE, SCHEME, MEANING], "colour": [R, G, B]}}'
# sRGB's primaries (IEC 61966-2-1) adapted to the white of DICOM's CIELab, D50
XYZ_OF_RGB = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)


@dataclass(frozen=True)
class SegmentCode:
    """Coded terms (value, coding scheme, meaning) of one class, and its colour (red, green, blue) of 0 to 255."""

    category: Code = TISSUE
    type: Code = TISSUE
    colour: tuple[int, int, int] = COLOURS[0]

    def cielab(self) -> tuple[int, int, int]:
        """The colour as DICOM stores it: L of 0..100 and a, b of -128..127, each spread over 0..65535."""
        share = np.array(self.colour) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        relative = XYZ_OF_RGB @ linear / XYZ_OF_RGB.sum(axis=1)
        x, y, z = np.where(relative > (6 / 29) ** 3, np.cbrt(relative), relative / (3 * (6 / 29) ** 2) + 4 / 29)
        values = np.array([(116 * y - 16) / 100, (500 * (x - y) + 128) / 255, (200 * (y - z) + 128) / 255])
        lightness, a, b = np.rint(values.clip(0, 1) * 65535).astype(int).tolist()
        return lightness, a, b


def segment_codes(path: str | Path, classes: Sequence[str]) -> dict[str, SegmentCode]:
    """Codes of all classes: those of a JSON file; what it leaves out is `TISSUE`, in the colour of a run's pictures.

    Args:
        path: the file; empty for none.
        classes: class names in the order of their values.

    Returns:
        Class name to code, for every class.

    Raises:
        InputError: the file cannot be read; or, all problems at once: classes that the model lacks, unknown fields,
            codes that are not three texts of the allowed length, colours that are not three numbers of 0 to 255.
    """
    given = _read(Path(path)) if str(path) else {}
    problems = Problems(f"segment codes {path}")
    for name in sorted(given.keys() - set(classes)):
        problems.add(name, f"is no class of the model, which has {', '.join(classes)}", "remove or rename it")
    found = {}
    for number, name in enumerate(classes):
        entry = given.get(name, {})
        if not isinstance(entry, Mapping):
            problems.add(name, f"is {entry!r}, not an object", CURE)
            continue
        for field in sorted(entry.keys() - set(FIELDS)):
            problems.add(f"{name}.{field}", "is unknown", f"{', '.join(FIELDS)}")
        codes = {field: entry.get(field, list(TISSUE)) for field in ("category", "type")}
        colour = entry.get("colour", list(COLOURS[number % len(COLOURS)]))
        wrong = {field: _code_problem(code) for field, code in codes.items()} | {"colour": _colour_problem(colour)}
        for field, what in wrong.items():
            if what:
                problems.add(f"{name}.{field}", what, CURE)
        if not any(wrong.values()):
            found[name] = SegmentCode(tuple(codes["category"]), tuple(codes["type"]), tuple(colour))
    problems.raise_if_any()
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"--segment_codes {path}: cannot be read ({error}). Cure: {CURE}") from None
    if not isinstance(content, dict):
        raise InputError(f"--segment_codes {path}: is no object of classes. Cure: {CURE}")
    return content


def _code_problem(code: Any) -> str:
    if not isinstance(code, list) or len(code) != 3 or not all(isinstance(part, str) and part for part in code):
        return f"must be three texts ({', '.join(PARTS)}), found {code!r}"
    long = [f"{part} of {len(text)}" for part, text, most in zip(PARTS, code, LENGTHS, strict=True) if len(text) > most]
    return f"has at most {LENGTHS} characters ({', '.join(PARTS)}), found {', '.join(long)}" if long else ""


def _colour_problem(colour: Any) -> str:
    whole = isinstance(colour, list) and all(type(part) is int and 0 <= part <= 255 for part in colour)
    return "" if whole and len(colour) == 3 else f"must be three whole numbers of 0 to 255, found {colour!r}"
