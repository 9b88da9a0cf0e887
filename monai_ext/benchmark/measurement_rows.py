"""Rows of measured comparisons: appended to a CSV file, read back, printed as a table."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from monai_ext.atomic_files import write_text
from monai_ext.errors import InputError
from monai_ext.results import commit


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Append rows to a CSV file, which is made with its header if it does not exist; all of them or none.

    Raises:
        InputError: the file has other columns.
    """
    kept = read_rows(path, columns) if path.exists() else []
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows([*kept, *rows])
    write_text(path, text.getvalue())


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file.

    Raises:
        InputError: the file is missing or has other columns.
    """
    if not path.is_file():
        raise InputError(f"{path}: not found. Cure: run the benchmark with --results {path} first")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if list(reader.fieldnames or ()) != list(columns):
            raise InputError(f"{path}: has other columns than {', '.join(columns[:4])}, ... Cure: another --results")
        return list(reader)


def circumstances() -> dict[str, str]:
    """Columns `commit` and `date` of a row."""
    return {"commit": commit(Path(__file__).parent), "date": date.today().isoformat()}


def measured_device(device: str) -> str:
    """Name of the GPU, or of the processor, that was timed."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else []
    return names[0] if names else "cpu"


def installed_versions(packages: Sequence[str]) -> str:
    """`torch 2.13.0, monai 1.6.1`, without the packages that are not installed."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def milliseconds(seconds: float) -> str:
    """Four significant digits, or whole milliseconds."""
    return f"{seconds * 1e3:.4g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def format_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], left: int = 1) -> str:
    """Text table of some columns, the first `left` of them flush left, the others flush right."""
    cells = [[name.replace("_", " ") for name in columns], *([str(row.get(c, "")) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in cells
    )
