"""Label maps of pictures as PNG or TIFF with the resolution of the picture they belong to."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.atomic_files import replacing
from monai_ext.datasets.picture_resolution import PictureResolution
from monai_ext.errors import InputError

MOST_IN_16_BITS = 2**16 - 1
STRIP_BYTES = 2**20
LARGEST = 2**32 - 2**16  # offsets of TIFF have 32 bits
SHORT, LONG, ASCII, RATIONAL = 3, 4, 2, 5
SIZES = {SHORT: 2, LONG: 4, ASCII: 1, RATIONAL: 8}
DEFLATE, BLACK_IS_ZERO, UNSIGNED = 8, 1, 1
INCH = 2.54  # centimetres


def write_label_file(path: str | Path, labels: np.ndarray, resolution: PictureResolution | None = None) -> None:
    """Write a label map, whole or not at all: 16 bits per pixel, 32 in TIFF if there are more than 65535 objects.

    Args:
        path: ends in `.png`, `.tif` or `.tiff`.
        labels: `[H, W]` whole numbers, at least 0.
        resolution: of the picture, kept in the file.

    Raises:
        InputError: another ending, more objects than PNG can hold, or the folder cannot be written to.
        ValueError: no label map.
    """
    path = Path(path)
    if labels.ndim != 2 or not labels.size or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise ValueError(f"labels must be non-empty [H, W] whole numbers from 0 on, got {labels.shape} {labels.dtype}")
    is_png, most = path.suffix.lower() == ".png", int(labels.max())
    if not is_png and path.suffix.lower() not in (".tif", ".tiff"):
        raise InputError(f"{path}: label maps are PNG or TIFF. Cure: a name that ends in .png or .tif")
    if is_png and most > MOST_IN_16_BITS:
        raise InputError(f"{path}: PNG holds {MOST_IN_16_BITS} objects, there are {most}. Cure: write TIFF")
    pixels = np.ascontiguousarray(labels, dtype=np.uint16 if most <= MOST_IN_16_BITS else np.uint32)
    try:
        if is_png:
            _write_png(path, pixels, resolution)
        else:
            _write_tiff(path, pixels, resolution)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}). Cure: a writable folder with space"
        ) from error


def _write_png(path: Path, pixels: np.ndarray, resolution: PictureResolution | None) -> None:
    from PIL import Image

    options: dict[str, Any] = {}
    if resolution is not None and resolution.per_centimetre is not None:
        y, x = resolution.per_centimetre
        options["dpi"] = (x * INCH, y * INCH)
    with replacing(path) as partial:
        Image.fromarray(pixels).save(partial, format="PNG", **options)


def _write_tiff(path: Path, pixels: np.ndarray, resolution: PictureResolution | None) -> None:
    """Strips of rows, deflated, little endian. Pillow has no unsigned 32-bit pixels, ITK cannot keep resolution."""
    height, width = pixels.shape
    rows = max(1, STRIP_BYTES // (width * pixels.itemsize))
    ordered = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
    strips = [zlib.compress(ordered[row : row + rows].tobytes(), 6) for row in range(0, height, rows)]
    offsets = 8 + np.concatenate([[0], np.cumsum([len(strip) for strip in strips])])
    if offsets[-1] > LARGEST:
        raise InputError(f"{path}: the label map is beyond the 4 GB of a TIFF file. Cure: predict parts of the picture")
    tags: list[tuple[int, int, Any]] = [
        (256, LONG, [width]),
        (257, LONG, [height]),
        (258, SHORT, [8 * pixels.itemsize]),
        (259, SHORT, [DEFLATE]),
        (262, SHORT, [BLACK_IS_ZERO]),
        (273, LONG, offsets[:-1].tolist()),
        (277, SHORT, [1]),
        (278, LONG, [rows]),
        (279, LONG, [len(strip) for strip in strips]),
        (339, SHORT, [UNSIGNED]),
    ]
    if resolution is not None:
        tags += [(282, RATIONAL, resolution.x), (283, RATIONAL, resolution.y), (296, SHORT, [resolution.unit])]
        if resolution.description:
            tags.append((270, ASCII, resolution.description.encode("ascii", "replace") + b"\0"))
    start = int(offsets[-1]) + int(offsets[-1]) % 2
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, start))
        for strip in strips:
            file.write(strip)
        file.write(b"\0" * (start - int(offsets[-1])) + _directory(sorted(tags, key=lambda tag: tag[0]), start))


def _directory(tags: list[tuple[int, int, Any]], start: int) -> bytes:
    """Tags and, behind them, the values that do not fit into their four bytes."""
    entries, values = b"", b""
    behind = start + 2 + 12 * len(tags) + 4
    for tag, kind, content in tags:
        packed = content if kind == ASCII else struct.pack(f"<{len(content)}{'H' if kind == SHORT else 'I'}", *content)
        field = packed.ljust(4, b"\0")
        if len(packed) > 4:
            field = struct.pack("<I", behind + len(values))
            values += packed + b"\0" * (len(packed) % 2)
        entries += struct.pack("<HHI", tag, kind, len(packed) // SIZES[kind]) + field
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0) + values
