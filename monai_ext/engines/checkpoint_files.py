"""Files of weights and of the state of a training: what is damaged is noticed, and an older one used where there is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_ext.archive_checksum import DamagedArchive, check_archive, check_records
from monai_ext.errors import InputError
from monai_ext.tensor_loading import load_bounded, out_of_memory

logger = logging.getLogger(__name__)
LAST, PREVIOUS = "last.pt", "last_previous.pt"


class UnreadableCheckpoint(InputError):  # noqa: N818 - says what is the matter
    """A checkpoint is damaged, as opposed to missing or of another training."""


def load_tensors(path: str | Path, cure: str, own: bool = False) -> Any:
    """`torch.load` with `weights_only=True` on the CPU, after a look at the checksum in the file.

    Args:
        path: of `save_tensors`, or of `torch.save`, which keeps no checksum.
        cure: what to do if it cannot be read.
        own: the file was surely written by this package. Without a checksum it is from before there was one: that is
            said in a warning, and the CRC-32 of its records are compared.

    Raises:
        UnreadableCheckpoint: the file is damaged, or holds more than tensors and plain values.
        InputError: the file is missing, may not be read, or does not fit into memory.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: checkpoint not found. Cure: {cure}")
    try:
        # one open file for both: what was checked is what is read
        with path.open("rb") as file:
            if not check_archive(file) and own:
                check_records(file)
                logger.warning("%s has no checksum (an earlier version wrote it): only its records were checked", path)
            return load_bounded(file)
    except PermissionError as error:
        raise InputError(f"{path}: may not be read ({error.strerror}). Cure: read permission for this user") from error
    except MemoryError as error:  # perhaps whole: an older one must not take its place
        raise InputError(out_of_memory(path, path.stat().st_size)) from error
    # a damaged pickle makes the unpickler raise nearly any kind of exception
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableCheckpoint(f"{path}: not a readable checkpoint ({reason:.200}). Cure: {cure}") from error


def damage(path: Path) -> str:
    """What is the matter with a file of weights: missing, or not as its checksum says; empty if nothing is known."""
    try:
        with path.open("rb") as file:
            check_archive(file)
    except (OSError, DamagedArchive) as error:
        return error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return ""


def load_newest(paths: Sequence[Path], cure: str) -> tuple[Any, Path] | None:
    """Content and path of the first of several checkpoints, newest first, that is whole; None if there is none at all.

    Any other than the first comes with a warning that says what is lost.

    Raises:
        UnreadableCheckpoint: all that are there are damaged; one error that lists them.
        InputError: one may not be read.
    """
    damaged: list[str] = []
    for path in paths:
        if not path.exists():
            continue
        try:
            content = load_tensors(path, "", own=True)
        except UnreadableCheckpoint as error:
            damaged.append(str(error).removesuffix(" Cure: ").removesuffix("."))
            continue
        if path != paths[0]:
            reason = "; ".join(damaged) or f"{paths[0]} is missing"
            logger.warning("%s: %s is used, what was done after it is done again", reason, path)
        return content, path
    if damaged:
        listed = "\n".join(f"  - {line}" for line in damaged)
        raise UnreadableCheckpoint(f"{paths[0].parent}: no checkpoint can be read:\n{listed}\nCure: {cure}")
    return None
