"""ZIP files of packed bundles: written the same for the same content, unpacked without trust.

A zip from elsewhere may name files outside the folder it is unpacked to, hold links, or claim to grow without end.
Nothing is written before names and sizes of all entries have been checked, and never more than an entry claimed.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import zipfile
from pathlib import Path
from typing import BinaryIO

from monai_ext.archive_checksum import END_BYTES, END_SIGNATURE
from monai_ext.atomic_files import explained, replacing
from monai_ext.datasets.confined_path import shown
from monai_ext.errors import InputError, Problems

MOST_ENTRIES = 10_000
MOST_LISTED = 10
GROWTH = 100  # times the size of the zip; weights shrink by a tenth, label maps by some hundred, but they are small
ALWAYS_ALLOWED = 2**28  # bytes
PLAIN_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._ +-]*[A-Za-z0-9_])?")
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
NOT_SMALLER = (".pt", ".ts", ".gz", ".png", ".onnx", ".engine")
FIRST_DATE = (1980, 1, 1, 0, 0, 0)
READ_BYTES = 2**20
CURE = "fetch the file again, or ask for it where it came from"


def write_zip(folder: Path, path: Path) -> None:
    """Pack a folder under its own name, as MONAI reads bundles (`NAME.zip` holds `NAME/configs/...`).

    The same files give the same bytes: entries are sorted, their dates fixed.

    Raises:
        InputError: the zip cannot be written.
    """
    with replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            entry = zipfile.ZipInfo((folder.name / file.relative_to(folder)).as_posix(), FIRST_DATE)
            entry.compress_type = zipfile.ZIP_STORED if file.suffix in NOT_SMALLER else zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.file_size = file.stat().st_size  # by which ZIP64 is chosen
            with file.open("rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target, READ_BYTES)


def unpack_zip(path: str | Path, folder: Path) -> Path:
    """Unpack a packed bundle.

    Args:
        path: the zip.
        folder: empty or new; the bundle becomes a folder in it.

    Returns:
        Folder of the bundle.

    Raises:
        InputError: there is no such file, it is no zip or damaged, an entry's name leaves the folder or is no plain
            one, or it claims far more bytes than the zip has. Nothing is written then, but for damaged content.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: is no file. Cure: give the zip that `export --format packed` wrote")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check_ends(file, entries)
            root = _checked_root(path, entries)
            for entry in entries:
                target = folder / entry.filename
                with archive.open(entry) as source:
                    _write(source, target, entry.file_size)  # type: ignore[arg-type]
    except InputError:
        raise
    except Exception as error:  # what a hostile directory makes of zipfile is of many kinds
        raise InputError(f"{path}: is no zip, cut off or damaged ({error!s:.200}). Cure: {CURE}") from error
    return folder / root


def _write(source: BinaryIO, target: Path, claimed: int) -> None:
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        file = target.open("xb")
    with file:
        written = 0
        while block := source.read(READ_BYTES):
            written += len(block)
            if written > claimed:
                raise zipfile.BadZipFile(f"{target.name} is longer than it says")
            with explained(target):
                file.write(block)


def _check_ends(file: BinaryIO, entries: list[zipfile.ZipInfo]) -> None:
    """Weights are archives too: of a zip that was cut off, zipfile would read the one inside."""
    file.seek(-END_BYTES, os.SEEK_END)
    end = file.read()
    if not end.startswith(END_SIGNATURE) or end[-2:] != b"\0\0" or not entries or entries[0].header_offset:
        raise zipfile.BadZipFile("has other bytes before or behind")


def _checked_root(path: Path, entries: list[zipfile.ZipInfo]) -> str:
    """Name of the one folder that holds all entries."""
    if len(entries) > MOST_ENTRIES:
        raise InputError(f"{path}: has {len(entries)} entries, a packed bundle at most {MOST_ENTRIES}. Cure: {CURE}")
    claimed, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if claimed > max(GROWTH * size, ALWAYS_ALLOWED):
        raise InputError(
            f"{path}: has {size} bytes and would grow to {claimed}, more than {GROWTH} times as many. Cure: {CURE}"
        )
    problems = Problems(str(path))
    taken: set[str] = set()
    for entry in entries:
        fault = _fault(entry)
        if not fault and entry.filename.lower() in taken:
            fault = "is there twice"  # disks that do not tell capital letters apart count
        taken.add(entry.filename.lower())
        if fault and len(problems) < MOST_LISTED:
            # what stands in the directory, before zipfile made a path of this system of it
            problems.add(shown(entry.orig_filename), fault, CURE)
    roots = {entry.filename.partition("/")[0] for entry in entries if "/" in entry.filename}
    if not len(problems) and (len(roots) != 1 or any("/" not in entry.filename for entry in entries)):
        problems.add(path.name, "does not hold one folder, that of a bundle", CURE)
    problems.raise_if_any()
    return roots.pop()


def _fault(entry: zipfile.ZipInfo) -> str:
    """What is wrong with an entry; empty if nothing is."""
    name = entry.orig_filename
    parts = name.split("/")
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or re.match(r"[A-Za-z]:", name):
        return "leaves the folder"
    if not all(PLAIN_NAME.fullmatch(part) for part in parts):
        return "is no plain name of letters, digits, `.`, `_`, `-`, `+` and spaces"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a link"
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.compress_type not in METHODS:
        return f"is packed by method {entry.compress_type}, neither stored nor deflated"
    return ""
