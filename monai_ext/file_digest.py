"""SHA-256 of a file, which ties what was measured or exported to the very file."""

from __future__ import annotations

import hashlib
from pathlib import Path

BLOCK = 2**20  # bytes read at a time


def file_sha256(path: str | Path) -> str:
    """Hash of a file, hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
