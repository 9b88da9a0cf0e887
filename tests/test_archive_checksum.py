"""Whatever happens to a file of weights is noticed, and a file without checksum still reads."""

from __future__ import annotations

import errno
import io
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_ext.archive_checksum import COMMENT_BYTES, DamagedArchive, check_archive, check_records, write_archive

CONTENT = {"weight": torch.arange(24.0).reshape(4, 6), "epoch": 7, "names": ["a", "b"], "empty": torch.zeros(0)}


def archive(content: Any = CONTENT) -> bytes:
    file = io.BytesIO()
    write_archive(file, content)
    return file.getvalue()


def plain(content: Any = CONTENT, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def noticed(content: bytes) -> bool:
    """Whether damage is said to be damage; to be taken for a file of an earlier version is not enough."""
    try:
        check_archive(io.BytesIO(content))
        return False
    except DamagedArchive:
        return True


def flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_archive_is_one_of_torch_and_of_zip(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(archive())
    for options in ({}, {"mmap": True}):
        loaded = torch.load(path, weights_only=True, **options)
        assert torch.equal(loaded["weight"], CONTENT["weight"])  # type: ignore[call-overload]
        assert loaded["names"] == ["a", "b"]
    with zipfile.ZipFile(path) as records:
        assert records.testzip() is None
    assert not noticed(path.read_bytes())


def test_same_content_gives_the_same_bytes() -> None:
    assert archive() == archive()


@pytest.mark.parametrize("elements", [0, 1, 5, 6, 100_003])
def test_archive_is_that_of_torch_up_to_the_length_of_its_comment(elements: int) -> None:
    content = {"w": torch.ones(elements)}
    ours, theirs = archive(content), plain(content)
    assert len(ours) == len(theirs) + COMMENT_BYTES
    assert ours[: len(theirs) - 2] == theirs[:-2]


def test_every_truncation_is_noticed() -> None:
    whole = archive()
    assert [length for length in range(len(whole)) if not noticed(whole[:length])] == []


def test_every_flipped_bit_is_noticed() -> None:
    whole = archive()
    assert [bit for bit in range(8 * len(whole)) if not noticed(flipped(whole, bit))] == []


def test_random_damage_to_a_larger_file_is_noticed() -> None:
    draw = random.Random(0)
    whole = archive({"w": torch.randn(30_000, generator=torch.Generator().manual_seed(0))})
    for _ in range(100):
        assert noticed(flipped(whole, draw.randrange(8 * len(whole))))
        assert noticed(whole[: draw.randrange(len(whole))])
        start = draw.randrange(len(whole) - 600)
        assert noticed(whole[:start] + bytes(512) + whole[start + 512 :])  # a block that was never written
    assert noticed(whole + b"\0")
    assert noticed(bytes(len(whole)))


def test_without_a_checksum_torch_takes_a_flipped_bit_for_a_weight() -> None:
    whole = plain({"w": torch.ones(500)})
    place = whole.index(torch.ones(500).numpy().tobytes()) + 100
    damaged = io.BytesIO(flipped(whole, 8 * place + 3))
    assert not torch.equal(torch.load(damaged, weights_only=True)["w"], torch.ones(500))
    assert check_archive(damaged) is False
    with pytest.raises(DamagedArchive, match=r"data/0 differs from its CRC-32"):
        check_records(damaged)
    check_records(io.BytesIO(whole))


@pytest.mark.parametrize("modern", [True, False])
def test_file_of_torch_alone_passes_as_one_without_checksum(modern: bool) -> None:
    assert check_archive(io.BytesIO(plain(_use_new_zipfile_serialization=modern))) is False


def test_compressed_archive_that_would_fill_the_memory_is_refused() -> None:
    source, bomb = zipfile.ZipFile(io.BytesIO(plain({"w": torch.zeros(250_000)}))), io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for info in source.infolist():
            packed.writestr(info.filename, source.read(info))
    assert len(bomb.getvalue()) < 10_000
    with pytest.raises(DamagedArchive, match=r"parts claim 1000\d{3} bytes, the file has \d{4}$"):
        check_archive(bomb)


def test_hostile_archives_without_checksum_raise_one_kind_of_error() -> None:
    draw = random.Random(1)
    whole, outcomes = plain(), set()
    directory = whole.index(b"PK\x01\x02")
    for _ in range(600):
        damaged = io.BytesIO(flipped(whole, draw.randrange(8 * directory, 8 * (len(whole) - 22))))
        try:
            check_archive(damaged)
            check_records(damaged)
            outcomes.add("read")
        except DamagedArchive:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


class FullDisk(io.BytesIO):
    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_disk_that_fills_up_anywhere_is_said() -> None:
    size = len(archive())
    for room in [*range(0, size, 97), size - 1]:
        with pytest.raises(OSError, match="No space left"):
            write_archive(FullDisk(room), CONTENT)
    write_archive(FullDisk(size), CONTENT)
