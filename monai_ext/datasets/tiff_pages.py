"""Structure of a TIFF file, read from its tags: ITK returns zeros for pages whose data are cut off."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from monai_ext.datasets.claimed_size import most_of_tiff
from monai_ext.errors import InputError

TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
FORMATS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
WIDTH, HEIGHT, BITS, OFFSETS, CHANNELS, COUNTS = 256, 257, 258, 273, 277, 279
COMPRESSION = 259
TILE_OFFSETS, TILE_COUNTS, SAMPLE_FORMAT, PHOTOMETRIC = 324, 325, 339, 262
SUBFILE, OLD_SUBFILE = 254, 255  # of which the second has values of its own
PAGE_KINDS = (None, 0, 2)  # values of `subfile`: neither a reduced image nor a mask
WHITE_IS_ZERO, PALETTE = 0, 3
SIGNED, FLOATING = 2, 3


@dataclass(frozen=True)
class TiffPage:
    """What the tags of one page tell.

    Attributes:
        height, width: in pixels.
        channels: samples per pixel, 3 for RGB.
        bits: per sample.
        floating: samples are floating-point numbers.
        palette: pixels are numbers of colours.
        signed: samples are whole numbers with a sign.
        inverted: 0 is shown white, as by an inverting lookup table.
        tiled: pixels lie in tiles, not in strips of rows.
        subfile: bits of the tag NewSubfileType: 1 a reduced image, 2 a page, 4 a mask; None without the tag, -1 if it
            is damaged.
    """

    height: int
    width: int
    channels: int
    bits: int
    floating: bool
    palette: bool
    signed: bool = False
    inverted: bool = False
    tiled: bool = False
    subfile: int | None = None


def tiff_pages(path: str | Path) -> list[TiffPage]:
    """Pages of a TIFF or BigTIFF file, with the certainty that the pixel data of every page lie within the file.

    Raises:
        InputError: cannot be opened, no TIFF, cut off, or its chain of pages is broken.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be opened ({error.strerror}). Cure: the path of a readable TIFF file"
        ) from None
    try:
        return _walk(content)
    except (struct.error, IndexError, KeyError, ValueError) as error:
        reason = str(error) if type(error) is ValueError else "its tags are damaged"
        raise InputError(f"{path}: {reason}. Cure: copy the file again from its source") from None


def _walk(content: bytes) -> list[TiffPage]:
    order = {b"II": "<", b"MM": ">"}.get(content[:2], "")
    version = struct.unpack(order + "H", content[2:4])[0] if order and len(content) >= 8 else 0
    if version not in (42, 43):
        raise ValueError("is no TIFF file" if content else "is empty")
    big = version == 43
    pointer, count_format = (order + "Q", order + "Q") if big else (order + "I", order + "H")
    start = _unpack(pointer, content, 8 if big else 4)
    pages: list[TiffPage] = []
    seen: set[int] = set()
    while start:
        if start in seen:
            raise ValueError(f"page {len(pages) + 1} points back to an earlier one")
        seen.add(start)
        if start + struct.calcsize(count_format) > len(content):
            raise ValueError(f"is cut off: page {len(pages) + 1} lies beyond the end of the file")
        number = _unpack(count_format, content, start)
        entry = 20 if big else 12
        first = start + struct.calcsize(count_format)
        after = first + number * entry
        if after + struct.calcsize(pointer) > len(content):
            raise ValueError(f"is cut off: the tags of page {len(pages) + 1} lie beyond the end of the file")
        tags: dict[int, list[int]] = {}
        for i in range(number):
            tag, values = _entry(content, first + i * entry, order, big)
            if tag in (
                WIDTH,
                HEIGHT,
                BITS,
                CHANNELS,
                OFFSETS,
                COUNTS,
                TILE_OFFSETS,
                TILE_COUNTS,
                SAMPLE_FORMAT,
                PHOTOMETRIC,
                COMPRESSION,
            ):
                tags[tag] = values
            elif tag in (SUBFILE, OLD_SUBFILE):
                value = (values or [-1])[0]
                kind = value if tag == SUBFILE else {1: 0, 2: 1, 3: 2}.get(value, -1)
                tags[SUBFILE] = [-1 if SUBFILE in tags else kind]  # nobody knows which of two holds
        pages.append(_page(tags, len(content), len(pages)))
        start = _unpack(pointer, content, after)
    if not pages:
        raise ValueError("has no page")
    return pages


def _page(tags: dict[int, list[int]], size: int, number: int) -> TiffPage:
    offsets = tags.get(OFFSETS) or tags.get(TILE_OFFSETS) or []
    counts = tags.get(COUNTS) or tags.get(TILE_COUNTS) or []
    if not offsets or len(offsets) != len(counts):
        raise ValueError(f"page {number} does not tell where its pixels are")
    if any(offset + length > size for offset, length in zip(offsets, counts, strict=True)):
        raise ValueError(f"is cut off: pixels of page {number} lie beyond the end of the file ({size} bytes)")
    row = math.ceil(tags[WIDTH][0] * tags.get(CHANNELS, [1])[0] * min(tags.get(BITS, [1])) / 8)
    claimed, stored = row * tags[HEIGHT][0], sum(counts)
    if claimed > most_of_tiff(stored, tags.get(COMPRESSION, [1])[0]):
        raise ValueError(f"page {number} claims {claimed} bytes of pixels, {stored} stored ones cannot hold them")
    return TiffPage(
        height=tags[HEIGHT][0],
        width=tags[WIDTH][0],
        channels=tags.get(CHANNELS, [1])[0],
        bits=tags.get(BITS, [1])[0],
        floating=tags.get(SAMPLE_FORMAT, [1])[0] == FLOATING,
        palette=tags.get(PHOTOMETRIC, [1])[0] == PALETTE,
        signed=tags.get(SAMPLE_FORMAT, [1])[0] == SIGNED,
        inverted=tags.get(PHOTOMETRIC, [1])[0] == WHITE_IS_ZERO,
        tiled=TILE_OFFSETS in tags,
        subfile=tags[SUBFILE][0] if SUBFILE in tags else None,
    )


def check_slices(path: str | Path, pages: Sequence[TiffPage]) -> None:
    """Refuse pages that are not the slices of one volume: ITK counts them one way and reads them another.

    Pages of other kinds or sizes make it write beyond its memory.

    Raises:
        InputError: pages differ in size or kind, or hold reduced images or masks.
    """
    for number, page in enumerate(pages):
        if page.subfile not in PAGE_KINDS and len(pages) > 1:
            raise InputError(
                f"{path}: page {number} is a reduced image or a mask (NewSubfileType {page.subfile}), which is no "
                "slice of a volume. Cure: save the slices alone"
            )
        names = [field.name for field in fields(page) if getattr(page, field.name) != getattr(pages[0], field.name)]
        if names:
            here, first = (", ".join(f"{name} {getattr(p, name)}" for name in names) for p in (page, pages[0]))
            raise InputError(
                f"{path}: page {number} has {here}, page 0 {first}; slices of a volume are alike. "
                "Cure: save slices of one size and type"
            )


def _entry(content: bytes, at: int, order: str, big: bool) -> tuple[int, list[int]]:
    """Number and whole-number values of a tag; no values for types that hold none."""
    tag, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHI"), content, at)
    inline, pointer = (8, "Q") if big else (4, "I")
    at += 12 if big else 8
    size = count * TYPE_BYTES.get(kind, 1)
    if size > inline:
        at = _unpack(order + pointer, content, at)
    if at + size > len(content):
        raise ValueError("is cut off: tags lie beyond the end of the file")
    if kind not in FORMATS:
        return tag, []
    return tag, list(struct.unpack_from(f"{order}{count}{FORMATS[kind]}", content, at))


def _unpack(form: str, content: bytes, at: int) -> int:
    return int(struct.unpack_from(form, content, at)[0])
