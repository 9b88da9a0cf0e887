"""Zips that are not unpacked: places outside, bombs, damage; one error each, and nothing is written."""

from __future__ import annotations

import contextlib
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monai_ext.errors import InputError
from monai_ext.export import packed_archive
from monai_ext.export.packed_archive import unpack_zip
from monai_ext.export.packed_check import verify_packed
from packed_models import refusal


def entry(name: str, content: bytes = b"a", mode: int = stat.S_IFREG | 0o644) -> Callable[[zipfile.ZipFile], None]:
    """A function that adds an entry to a zip."""

    def add(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, content)

    return add


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (entry("nnunet/../../evil.txt"), "leaves the folder"),
        (entry("/tmp/evil.txt"), "leaves the folder"),
        (entry("nnunet\\..\\evil.txt"), "leaves the folder"),
        (entry("C:/evil.txt"), "leaves the folder"),
        (entry("nnunet/.hidden"), "is no plain name"),
        (entry("nnunet/a\nb"), "is no plain name"),
        (entry("nnunet//a"), "is no plain name"),
        (entry("nnunet/link", b"/etc/passwd", stat.S_IFLNK | 0o777), "is a link"),
        (entry("nnunet/license"), "is there twice"),
        (entry("other/a"), "does not hold one folder"),
        (entry("a"), "does not hold one folder"),
    ],
)
def test_entries_that_are_not_unpacked(
    zip_file: Path, add: Callable[[zipfile.ZipFile], None], message: str, tmp_path: Path
) -> None:
    with zipfile.ZipFile(zip_file, "a") as archive:
        add(archive)
    said = refusal(zip_file)
    assert message in said
    assert "1 problem\n" in said
    with pytest.raises(InputError):
        unpack_zip(zip_file, tmp_path / "deep" / "er")
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["nnunet.zip"]


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"bomb/{number}", bytes(2**20))
    assert path.stat().st_size < 5000  # a thousandth
    monkeypatch.setattr(packed_archive, "ALWAYS_ALLOWED", 2**20)
    assert f"would grow to {3 * 2**20}, more than 100 times as many" in refusal(path)
    # one that lies about its size: never more than it claims is written
    content = path.read_bytes().replace((2**20).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    path.write_bytes(content)
    assert "damaged" in refusal(path)
    monkeypatch.setattr(packed_archive, "MOST_ENTRIES", 2)
    assert "has 3 entries, a packed bundle at most 2" in refusal(path)


def test_damaged_zips(zip_file: Path) -> None:
    """Whatever is damaged, one error says so: bits flipped, ends cut off, other files."""
    content = zip_file.read_bytes()
    random = np.random.default_rng(0)
    with zipfile.ZipFile(zip_file) as archive:
        first = archive.getinfo("nnunet/models/model.pt").header_offset + 1000
    damages = [*random.integers(0, len(content), 12), *range(len(content) - 22, len(content), 4)]
    for position in [first, *damages]:
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        zip_file.write_bytes(damaged)
        # some bytes say nothing that counts, such as the date of an entry; no other error may come
        with pytest.raises(InputError, match="Cure: ") if position == first else contextlib.suppress(InputError):
            verify_packed(zip_file, run=False, say=lambda _: None)
    for cut in (0, 10, len(content) // 2, len(content) - 1):
        zip_file.write_bytes(content[:cut])
        assert "is no zip, cut off or damaged" in refusal(zip_file)
    with zipfile.ZipFile(zip_file, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("nnunet/packed.json", b"{}")
    assert "is packed by method 14" in refusal(zip_file)
