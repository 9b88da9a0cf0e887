"""Size that DICOM files claim, from their headers, before their pixels are read."""

from __future__ import annotations

import zlib
from pathlib import Path

from monai_ext.datasets.claimed_size import GIB, LIMIT_VARIABLE, check_claim, size_limit
from monai_ext.datasets.file_names import is_dicom
from monai_ext.errors import InputError

PREAMBLE, MARK = 128, b"DICM"
META_BYTES = 2**16  # the part before the data set is a few hundred bytes
DEFLATED = b"1.2.840.10008.1.2.1.99"  # transfer syntax in which all after the first part is a deflated stream
GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"  # element (0002,0000): bytes of that part
TRANSFER_SYNTAX = b"\x02\x00\x10\x00UI"  # element (0002,0010)
PLAIN = (b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2")  # without compression
MOST_OF_BYTE = 64  # bytes that a stored one may become: a bit a pixel, and GDCM's 64-bit numbers after rescaling
RAW_STREAM = -15  # zlib's number for deflate without header and checksum
DRAINED_AT_ONCE = 2**20


def check_dicom(path: Path) -> None:
    """Refuse a DICOM file, or a folder with a series, that claims more than the limit of `claimed_size`.

    Raises:
        InputError: too large, or a header that cannot be read.
    """
    files = [path] if path.is_file() else [file for file in sorted(path.iterdir()) if is_dicom(file)]
    total = [0, 0, 0, 0]
    for file in files:
        _check_deflated_stream(file)
        shape, value_bytes = _claim(file)
        claimed = check_claim(file, shape, value_bytes)
        stored = file.stat().st_size
        if claimed > MOST_OF_BYTE * stored and _is_plain(file):
            raise InputError(
                f"{file}: cannot be read, the file is incomplete (its header claims {claimed} bytes of pixels, it "
                f"has {stored}). Cure: copy it again"
            )
        total = [len(files), *shape[:2], max(total[3], claimed // max(shape[0] * shape[1], 1))]
    check_claim(path, total)  # a series takes as many bytes for each slice as its largest


def _claim(path: Path) -> tuple[tuple[int, ...], int]:
    """Axes (columns, rows, frames, samples) and bytes per value."""
    import itk

    reader = itk.GDCMImageIO.New()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        axes = [int(reader.GetDimensions(i)) for i in range(int(reader.GetNumberOfDimensions()))]
        sizes = (*axes, int(reader.GetNumberOfComponents()))
        return sizes, max(1, int(reader.GetComponentSize()))
    except RuntimeError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise InputError(
            f"{path}: cannot be read, its DICOM header is damaged ({reason}). Cure: copy it again"
        ) from None


def _is_plain(path: Path) -> bool:
    """Whether the pixels are stored uncompressed."""
    with path.open("rb") as file:
        start = file.read(META_BYTES)
    found = start.partition(TRANSFER_SYNTAX)[2]
    length = int.from_bytes(found[:2], "little")
    return found[2 : 2 + length].rstrip(b"\0 ") in PLAIN if found else True


def _check_deflated_stream(path: Path) -> None:
    """Count what a deflated data set becomes, which GDCM would unpack wholly to find any element."""
    with path.open("rb") as file:
        start = file.read(META_BYTES)
        if start[PREAMBLE : PREAMBLE + 4] != MARK or DEFLATED not in start:
            return
        at = start.find(GROUP_LENGTH, PREAMBLE)
        if at < 0:
            raise InputError(f"{path}: states no length of its first part. Cure: export it again")
        first = at + 12 + int.from_bytes(start[at + 8 : at + 12], "little")
        file.seek(first)
        stream, unpacked, limit = zlib.decompressobj(RAW_STREAM), 0, size_limit()
        try:
            while not stream.eof and (content := stream.unconsumed_tail or file.read(DRAINED_AT_ONCE)):
                unpacked += len(stream.decompress(content, DRAINED_AT_ONCE))
                if unpacked > limit:
                    raise InputError(
                        f"{path}: decompresses to more than the limit of {limit / GIB:g} GiB. Cure: remove the file; "
                        f"if it is that large, set the environment variable {LIMIT_VARIABLE}"
                    )
        except zlib.error as error:
            raise InputError(f"{path}: cannot be read, it is damaged ({error}). Cure: copy it again") from None
