"""Numbers of a model card that no file of its run holds."""

from __future__ import annotations

import csv
import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# whole numbers and decimals that stand alone, not parts of names such as HD95, c_17 or 2.13.0+cpu
NUMBER = re.compile(r"(?<![\w./+-])-?\d+(?:\.\d+)?(?:e[+-]\d+)?(?![\w/+-]|\.\d)")
STANDING = ("## References", "## Usage")  # what is said of every run: years of papers, options of commands


def foreign_numbers(card: str, run: Path) -> list[str]:
    """Numbers of the card that are neither in a file of the run nor computed from one (spread over cases)."""
    text = card.replace("Apache License 2.0", "")
    for title in STANDING:
        text = re.sub(rf"{title}\n.*?(?=\n## |\Z)", "", text, flags=re.DOTALL)
    known = list(_known(run))
    words = {word for path in _files(run) for word in NUMBER.findall(path.read_text())}
    return sorted({found for found in NUMBER.findall(text) if found not in words and not _is_known(found, known)})


def _is_known(found: str, known: list[float]) -> bool:
    digits = len(found.partition(".")[2])
    return any(f"{value:.{digits}f}" == found or f"{value:.4g}" == found for value in known)


def _files(run: Path) -> list[Path]:
    return [path for path in run.rglob("*") if path.suffix in (".json", ".csv", ".jsonl")]


def _known(run: Path) -> Iterator[float]:
    yield float((run / "model.pt").stat().st_size)
    for path in _files(run):
        if path.suffix == ".csv":
            rows: Any = list(csv.DictReader(path.read_text().splitlines()))
            content: Any = [{name: _float(value) for name, value in row.items()} for row in rows]
        elif path.suffix == ".jsonl":
            content = [json.loads(line) for line in path.read_text().splitlines()]
        else:
            content = json.loads(path.read_text())
        yield from _numbers(content)
        yield from _spreads(list(content.values()) if isinstance(content, dict) else content)


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _numbers(content: Any) -> Iterator[float]:
    if isinstance(content, dict):
        for value in content.values():
            yield from _numbers(value)
    elif isinstance(content, list):
        yield len(content)
        for value in content:
            yield from _numbers(value)
    elif isinstance(content, int | float):
        yield float(content)


def _spreads(rows: list[Any]) -> Iterator[float]:
    cases = [row for row in rows if isinstance(row, dict)]
    for name in {name for row in cases for name in row}:
        values = [row[name] for row in cases if isinstance(row.get(name), int | float)]
        if values:
            yield from (len(values), statistics.fmean(values), statistics.pstdev(values), statistics.median(values))
