"""Rows of `faults.csv`: what the scripts broke on purpose, how often, and what survived."""

from __future__ import annotations

import csv
import io
import platform
from datetime import date
from pathlib import Path

from monai_ext.atomic_files import replacing
from monai_ext.benchmark.measurement_rows import installed_versions
from monai_ext.file_lock import FileLock
from monai_ext.results import commit, device_name

RESULTS = Path(__file__).parent / "faults.csv"
COLUMNS = ("fault", "phase", "tried", "survived", "lost", "seed", "device", "versions", "commit", "date")
LOCK_PATIENCE = 30.0  # seconds; another script holds the file for as long as a row takes


def append_fault(path: str | Path, fault: str, phase: str, tried: int, survived: int, lost: int, seed: int) -> None:
    """Append one row; scripts that run at the same time may share the file.

    Args:
        path: the CSV file, made if it is not there; `RESULTS` is the one that the docs are made from.
        fault: what was done, as in "SIGKILL" or "disk full".
        phase: while what went on, as in "checkpoint writing (nnunet)".
        tried: how often it was done.
        survived: of these, how often all went on as it should, or ended with the one clear error that it should.
        lost: of these, how often finished work was gone or damaged afterwards; an attempt that neither survived nor
            lost anything (a flood of tracebacks, say) is the difference to `tried`.
        seed: from which the moments and inputs were drawn; 0 if nothing was.

    Raises:
        ValueError: the counts do not fit together, or the file has other columns.
    """
    if tried < 1 or min(survived, lost) < 0 or survived + lost > tried:
        raise ValueError(f"{fault}, {phase}: {survived} survived and {lost} lost of {tried} tried")
    path = Path(path)
    about = (device_name(), f"{installed_versions(['torch', 'monai'])} python {platform.python_version()}")
    row = (fault, phase, tried, survived, lost, seed, *about, commit(Path(__file__).parent), date.today().isoformat())
    lock = FileLock(path.with_name(f".{path.name}.lock"), str(path))
    lock.acquire(LOCK_PATIENCE)
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ",".join(COLUMNS) + "\n"
        if tuple(text.splitlines()[0].split(",")) != COLUMNS:
            raise ValueError(f"{path}: has other columns than {', '.join(COLUMNS)}")
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(row)
        with replacing(path) as partial:
            partial.write_text(text + line.getvalue(), encoding="utf-8", newline="\n")
    finally:
        lock.release()


def read_faults(path: str | Path) -> list[dict[str, str]]:
    """The rows, by column."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
