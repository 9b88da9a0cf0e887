"""A SHA-256 inside a `torch.save` archive, so that damage is noticed before anything in it is unpickled.

Such an archive is a ZIP file. PyTorch does not compare the CRC-32 that ZIP keeps of each record, so a flipped bit comes
back as a wrong weight. The digest covers every byte before it and stands in the comment that ends a ZIP file: readers
of these archives, `torch.load` of any version among them, need not know of it.

File layout: `archive of torch.save, its last two bytes the length of the comment | MARK | 64 hexadecimal digits` (ZIP's
end record, section 4.3.16 of PKWARE's APPNOTE).
"""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import torch

MARK = b"monai_ext sha256 "
COMMENT_BYTES = len(MARK) + 2 * hashlib.sha256().digest_size
END_BYTES = 22  # of ZIP's end record without a comment
END_SIGNATURE, FIRST_SIGNATURE = b"PK\x05\x06", b"PK\x03\x04"
LEGACY_PICKLE = b"\x80"  # torch.save before 1.6 wrote bare pickles
READ_BYTES = 2**20


class DamagedArchive(ValueError):  # noqa: N818 - says what is the matter
    """A file is not as `torch.save` or `write_archive` left it; the message says what was noticed."""


def write_archive(file: BinaryIO, content: Any) -> None:
    """`torch.save` of `content` into a file open for writing, followed by its digest.

    Raises:
        OSError: the file cannot be written.
    """
    stream = _DigestStream(file)
    torch.save(content, stream)  # type: ignore[arg-type]
    stream.finish()


def check_archive(file: BinaryIO) -> bool:
    """Compare a file with the digest in it; reads it once, in pieces.

    Returns:
        whether there is a digest; without one only the outline of the archive was looked at, and `check_records` can
        say more.

    Raises:
        DamagedArchive: the file is cut off, differs from its digest, or claims more than it holds.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - COMMENT_BYTES))
    end = file.read()
    if end.startswith(MARK):
        if _digest(file, size - COMMENT_BYTES) != end[len(MARK) :]:
            raise DamagedArchive("its content differs from its checksum")
        _check_outline(file, size)  # whoever makes a bomb can add its checksum as well
        return True
    file.seek(0)
    start = file.read(len(FIRST_SIGNATURE))
    if start.startswith(LEGACY_PICKLE):
        return False
    record = end[-END_BYTES:]
    # no damage to one of our files looks like this: it ends in a comment of digits, not in an end record without one
    if start != FIRST_SIGNATURE or not record.startswith(END_SIGNATURE) or record[-2:] != b"\0\0":
        raise DamagedArchive("is cut off, or no file of torch.save")
    _check_outline(file, size)
    return False


def check_records(file: BinaryIO) -> None:
    """Compare each record of an archive without digest with its CRC-32.

    Raises:
        DamagedArchive: a record differs.
    """
    with _archive(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise DamagedArchive(f"its part {damaged:.80} differs from its CRC-32")


def _check_outline(file: BinaryIO, size: int) -> None:
    with _archive(file) as archive:
        parts = archive.infolist()
        claimed = sum(part.file_size for part in parts)
        # torch.save never compresses, so what an honest archive holds is not larger than the archive
        if claimed > size or any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise DamagedArchive(f"is compressed or cut off: its parts claim {claimed} bytes, the file has {size}")


class _DigestStream:
    """What `torch.save` writes to: keeps the last `END_BYTES` back, because the length of the comment goes there."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.end = b""
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        if len(data) < END_BYTES:
            kept = self.end + bytes(data)
        else:
            self._pass_on(self.end)
            kept = data  # type: ignore[assignment]
        self._pass_on(kept[:-END_BYTES])
        self.end = bytes(kept[-END_BYTES:])
        return len(data)

    def flush(self) -> None:
        """`torch.save` asks for it; the caller flushes."""

    def finish(self) -> None:
        if self.error is not None:
            raise self.error
        if not self.end.startswith(END_SIGNATURE) or self.end[-2:] != b"\0\0":
            raise RuntimeError("torch.save did not end its archive as ZIP does")
        self._pass_on(self.end[:-2] + struct.pack("<H", COMMENT_BYTES))
        self._pass_on(MARK + self.digest.hexdigest().encode())
        if self.error is not None:
            raise self.error

    def _pass_on(self, data: bytes | memoryview) -> None:
        # PyTorch's archive writer does not expect an exception in the middle of a record: it is kept until the end
        if self.error is None:
            try:
                self.file.write(data)
                self.digest.update(data)
            except OSError as error:
                self.error = error


@contextmanager
def _archive(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """ZIP reader whose every complaint is a `DamagedArchive`: a hostile directory makes it raise many kinds."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (DamagedArchive, OSError, MemoryError):
        raise
    except Exception as error:
        raise DamagedArchive(f"is no readable archive: {error!s:.120}") from error


def _digest(file: BinaryIO, size: int) -> bytes:
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (piece := file.read(min(READ_BYTES, size))):
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest().encode()
