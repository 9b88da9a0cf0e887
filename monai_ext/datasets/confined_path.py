"""Paths that a data file names: they may not leave the folder of their dataset."""

from __future__ import annotations

import os
from pathlib import Path

from monai_ext.errors import InputError

ALLOWING_VARIABLE = "MONAI_EXT_PATHS_OUTSIDE"
CURE = f"copy the file into the folder, or set {ALLOWING_VARIABLE}=1 if you trust who made the dataset"
LONGEST_SHOWN = 120


def paths_may_leave() -> bool:
    """Whether a person lets data files name any path: the environment variable `MONAI_EXT_PATHS_OUTSIDE` is 1.

    Raises:
        InputError: it is neither 0 nor 1.
    """
    given = os.environ.get(ALLOWING_VARIABLE, "").strip()
    if given not in ("", "0", "1"):
        raise InputError(f"{ALLOWING_VARIABLE}={given}: is neither 0 nor 1. Cure: 1 if you trust who made the dataset")
    return given == "1"


def path_fault(folder: Path, named: str, *also: Path) -> str:
    """What is wrong with a path that a data file names; empty if nothing is.

    The dataset comes from somebody else and must not make a run read the files of the person who starts it. `..`,
    absolute paths and links all count by where they lead to. A folder that is itself a link counts as where it leads.

    Args:
        folder: what `named` is relative to, and may not leave.
        named: as it stands in the file.
        also: further folders in which it may lie.
    """
    try:
        if not named.strip() or any(ord(character) < 32 for character in named):
            return "is no path"
        os.fsencode(named)  # half of a surrogate pair, which JSON can hold and no file name
        if paths_may_leave():
            return ""
        target = (folder / named).resolve()
        if not any(target.is_relative_to(allowed.resolve()) for allowed in (folder, *also)):
            return "leaves the dataset folder"
        target.exists()  # names beyond what the file system takes
    except (ValueError, OSError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        return f"is no path ({getattr(error, 'strerror', None) or type(error).__name__})"
    return ""


def confined_path(folder: Path, named: str, source: str | Path, *also: Path) -> Path:
    """`folder / named`, see `path_fault`.

    Args:
        folder, named, also: see `path_fault`.
        source: the data file, for the message.

    Raises:
        InputError: the path leaves the folder, or is none.
    """
    fault = path_fault(folder, named, *also)
    if fault:
        raise InputError(f"{source}: names {shown(named)}, which {fault} ({folder}). Cure: {CURE}")
    return folder / named


def shown(named: str) -> str:
    """A path from a file as a message can show it: printable and of bounded length."""
    text = named.encode("unicode_escape").decode() if not named.isprintable() else named
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."
