"""How much memory an image file asks for, compared with a limit before any of it is taken.

A header of 352 bytes can claim 10^6 voxels along each axis, and a megabyte of gzip can hold a gigabyte of zeros.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_ext.errors import InputError

LIMIT_VARIABLE = "MONAI_EXT_MAX_IMAGE_GIB"
DEFAULT_GIB = 16.0  # 512 x 512 x 1000 voxels with four channels of 32 bits are 4 GiB
GIB = 2**30
DEFLATE_RATIO = 1032  # no stream of deflate becomes more bytes than this for each of its own
GZIP_WINDOW = 31  # zlib's number for gzip with its checksum
DRAINED_AT_ONCE = 2**20
# bytes that one stored byte of TIFF becomes at most, by number of the compression: raw (colours may be subsampled), LZW
# (codes of 12 bits stand for up to 4095 bytes), deflate by its two numbers, runs; others have no bound worth checking
TIFF_RATIOS = {1: 4, 5: 4096, 8: DEFLATE_RATIO, 32946: DEFLATE_RATIO, 32773: 128}
PILLOW_BYTES = {"I": 4, "F": 4}  # per channel; modes I;16 have 2, all others 1


def size_limit() -> int:
    """Bytes that the decoded values of one image may have: `MONAI_EXT_MAX_IMAGE_GIB` (16 if unset) in 2^30 bytes.

    Raises:
        InputError: the environment variable is no positive number.
    """
    given = os.environ.get(LIMIT_VARIABLE, "").strip()
    try:
        limit = float(given) if given else DEFAULT_GIB
    except ValueError:
        limit = -1.0
    if not 0 < limit < 2**30:
        raise InputError(f"{LIMIT_VARIABLE}={given}: is no positive number. Cure: the largest image in GiB, such as 64")
    return int(limit * GIB)


def check_claim(path: str | Path, shape: Sequence[int], value_bytes: int = 1) -> int:
    """Refuse an image whose header claims more than the limit.

    Args:
        path: of the file.
        shape: all axes, channels and pages among them, at least 0.
        value_bytes: of one decoded value.

    Returns:
        Bytes claimed.

    Raises:
        InputError: more than `size_limit`, or an axis is negative.
    """
    sizes = [int(n) for n in shape]
    listed = " x ".join(map(str, sizes))
    if min(sizes, default=0) < 0:
        raise InputError(f"{path}: its header claims {listed} values. Cure: copy the file again from its source")
    claimed, limit = math.prod(sizes) * value_bytes, size_limit()
    if claimed > limit:
        raise InputError(
            f"{path}: its header claims {listed} values of {value_bytes} bytes, {claimed / GIB:.3g} GiB; the limit is "
            f"{limit / GIB:g} GiB. Cure: copy the file again, as a damaged header claims anything; if it is that "
            f"large, set the environment variable {LIMIT_VARIABLE}"
        )
    return claimed


def check_deflated(path: str | Path, claimed: int, stored: int) -> None:
    """Refuse a claim that the compressed bytes of a file cannot hold.

    Args:
        claimed: bytes of the decoded values.
        stored: bytes of the deflated (zlib, gzip, PNG) stream.

    Raises:
        InputError: deflate cannot make so many bytes of so few.
    """
    if claimed > stored * DEFLATE_RATIO:
        raise InputError(
            f"{path}: cannot be read, the file is incomplete (its header claims {claimed} bytes, {stored} compressed "
            "ones cannot hold them). Cure: copy or download it again"
        )


def check_picture(path: str | Path, picture: Any, pages: int = 1) -> None:
    """`check_claim` for what Pillow has opened and not yet decoded."""
    bands = picture.getbands()
    value_bytes = 2 if picture.mode.startswith("I;16") else PILLOW_BYTES.get(picture.mode, 1)
    # palettes and bits become colours, RGB takes four bytes in Pillow's memory
    channels = 4 if len(bands) > 1 or picture.mode in ("P", "1") else 1
    width, height = picture.size
    check_claim(path, (pages, height, width, channels), value_bytes)
    if picture.format == "TIFF":
        tags = picture.tag_v2
        counts = tags.get(279) or tags.get(325) or ()
        stored = sum(counts) if all(isinstance(count, int) for count in counts) else 0
        if width * height / 8 > most_of_tiff(stored, tags.get(259, 1)):  # a pixel has a bit at least
            raise InputError(
                f"{path}: cannot be read, the file is incomplete (its tags claim {width} x {height} pixels, {stored} "
                "bytes cannot hold them). Cure: copy or download it again"
            )


def most_of_tiff(stored: int, compression: int) -> float:
    """Bytes of pixels that so many stored bytes of a TIFF page can become; infinite where nothing is known.

    Args:
        stored: sum of its strips or tiles.
        compression: value of the tag 259.
    """
    return stored * TIFF_RATIOS.get(compression, math.inf) if stored > 0 else 0


def gunzipped_start(content: bytes, wanted: int) -> bytes:
    """The first `wanted` bytes, or fewer, of a gzip file, without decompressing the rest.

    Raises:
        zlib.error: it is damaged.
    """
    return zlib.decompressobj(GZIP_WINDOW).decompress(content, wanted)


def gunzipped(path: str | Path, content: bytes, wanted: int) -> bytes:
    """The first `wanted` bytes of a gzip file of any number of members, all checksums compared.

    What follows them is decompressed piece by piece and thrown away.

    Args:
        path: for messages.
        content: of the whole file.
        wanted: at most so many bytes are kept.

    Raises:
        InputError: it decompresses to more than `size_limit`.
        EOFError: it is cut off.
        zlib.error: it is damaged, or a checksum differs.
    """
    kept: list[bytes] = []
    missing, total, limit = wanted, 0, max(size_limit(), wanted)
    rest: bytes = content
    while rest:
        member = zlib.decompressobj(GZIP_WINDOW)
        source = rest
        while not member.eof:
            try:
                part = member.decompress(source, missing or DRAINED_AT_ONCE)
            except zlib.error as error:
                raise zlib.error(str(error).replace("incorrect data check", "the checksum (CRC) differs")) from None
            if not part and not member.eof:
                raise EOFError("the compressed file ended before its end mark")
            total += len(part)
            if total > limit:
                raise InputError(
                    f"{path}: decompresses to more than the limit of {limit / GIB:g} GiB, {wanted} bytes are claimed. "
                    f"Cure: remove the file; if it is that large, set the environment variable {LIMIT_VARIABLE}"
                )
            if missing:
                kept.append(part[:missing])
                missing -= len(kept[-1])
            source = member.unconsumed_tail
        rest = member.unused_data.lstrip(b"\0")  # members may be padded with zeros
    return kept[0] if len(kept) == 1 else b"".join(kept)
