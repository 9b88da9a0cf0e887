"""The hash of a file that is larger than what is read at a time."""

from __future__ import annotations

import hashlib
from pathlib import Path

from monai_ext.file_digest import BLOCK, file_sha256


def test_hash_is_of_the_whole_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    assert len(content) > 2 * BLOCK
    (tmp_path / "a").write_bytes(content)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
