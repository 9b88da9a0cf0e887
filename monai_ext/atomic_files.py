"""Files that are either complete or absent: written beside their place, synced, then renamed."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = re.compile(r"\.[0-9a-f]{8}-")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` with the same ending; on success it replaces `path`, on failure it goes.

    The last good file is never removed before the new one is complete.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partials(folder: str | Path) -> None:
    """Remove what a killed process left of unfinished files; call where nobody else is writing."""
    for path in Path(folder).glob(".*"):
        if PARTIAL.match(path.name) and path.is_file():
            path.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text with Unix line ends."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def save_tensors(path: str | Path, content: Any) -> None:
    """`torch.save`; `content` must be loadable with `weights_only=True`."""
    import torch

    with replacing(path) as partial:
        torch.save(content, partial)
