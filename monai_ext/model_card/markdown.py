"""Text, numbers and tables of a Markdown file; names that come from a dataset cannot become markup."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

NOT_RECORDED = "not recorded"
LONGEST_LIST = 12  # entries of a list that are shown
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")


def escaped(text: object) -> str:
    """Text on one line, whatever it holds: no HTML, no links, no code, no end of a table's cell."""
    line = _CONTROL.sub(" ", str(text)).strip()
    for found, safe in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*"), ("`", "'")):
        line = line.replace(found, safe)
    return line.replace("](", "]\\(")


def number(value: object, digits: int = 4) -> str:
    """A score with so many digits behind the point; `-` for what is undefined."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


def shown(value: object) -> str:
    """Any value of a JSON file on one line: four significant digits, lists in lists in brackets, long ones cut."""
    if value is None or value == "" or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Mapping):
        return _cut([f"{escaped(name)}: {shown(entry)}" for name, entry in value.items()], ", ")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _cut([f"({shown(entry)})" if isinstance(entry, list) else shown(entry) for entry in value], ", ")
    return escaped(value)


def _float(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if value.is_integer() or 1e3 <= abs(value) < 1e9 else f"{value:.4g}"


def _cut(texts: Sequence[str], between: str) -> str:
    if len(texts) <= LONGEST_LIST:
        return between.join(texts)
    return between.join(texts[:LONGEST_LIST]) + f", and {len(texts) - LONGEST_LIST} more"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table of cells that are safe already; the first columns, `left` of them, stand left, the others right."""
    sides = [":--"] * left + ["--:"] * (len(columns) - left)
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join(sides)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def facts(entries: Mapping[str, Any]) -> str:
    """A list of names and values; values that are None are left out."""
    return "\n".join(f"- {name}: {shown(value)}" for name, value in entries.items() if value is not None)


def code(*lines: str) -> str:
    """Lines of a terminal, as indented code, which nothing in them can end."""
    return "\n".join("    " + _CONTROL.sub(" ", line) for line in lines)


def section(title: str, *parts: str) -> str:
    """A headed part of the card; empty parts are left out."""
    return "\n\n".join([f"## {title}", *(part for part in parts if part)])
