"""Headers of NRRD and MetaImage files, read before ITK is handed the file: size, encoding and where the voxels are."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from monai_ext.datasets.claimed_size import check_claim, check_deflated
from monai_ext.datasets.confined_path import confined_path
from monai_ext.errors import InputError

HEADER_BYTES = 2**20  # a header is text of a few hundred bytes; lists of data files may be longer
MOST_AXES = 10  # for more ITK's MetaImage has no room
NRRD_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), 8),
    **dict.fromkeys(("int64", "int64_t", "ulonglong", "unsigned long long", "unsigned long long int"), 8),
    **dict.fromkeys(("uint64", "uint64_t", "double"), 8),
    "float": 4,
}
META_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG", "MET_ULONG"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
RAW, PACKED, TEXT = "raw", "gzip", "ascii"
NRRD_ENCODINGS = {
    "raw": RAW, "gzip": PACKED, "gz": PACKED, "ascii": TEXT, "txt": TEXT, "text": TEXT, "hex": TEXT,
}  # fmt: skip
LIST_OF_FILES = "list"


@dataclass(frozen=True)
class VoxelClaim:
    """What a header says about the voxels.

    Attributes:
        shape: all axes, channels among them.
        value_bytes: of one value.
        encoding: raw, gzip or ascii.
        files: that hold the voxels; the file itself for those after the header.
        offset: bytes before the voxels, where they are in one file; -1 if they are its last bytes.
    """

    shape: tuple[int, ...]
    value_bytes: int
    encoding: str
    files: tuple[Path, ...]
    offset: int = 0


def check_text_header(path: Path) -> VoxelClaim:
    """Refuse a `.nrrd`, `.nhdr`, `.mha` or `.mhd` file that cannot be what its header says.

    Raises:
        InputError: no such header, more voxels than the limit of `claimed_size` or than the data can hold, or data in
            files outside the folder of the header.
    """
    is_nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
    with path.open("rb") as file:
        content = file.read(HEADER_BYTES)
    try:
        claim = _nrrd_claim(path, content) if is_nrrd else _meta_claim(path, content)
    except (ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise _damaged(path, str(error)) from None
    claimed = check_claim(path, claim.shape, claim.value_bytes)
    missing = [file.name for file in claim.files if not file.is_file()]
    if missing:
        raise _damaged(path, f"the file {missing[0]} with its voxels is missing")
    stored = sum(file.stat().st_size for file in claim.files) - max(claim.offset, 0)
    if claim.encoding == PACKED:
        check_deflated(path, claimed, stored)
    elif stored < (claimed if claim.encoding == RAW else math.prod(claim.shape)):
        raise _damaged(path, f"{claimed} bytes are claimed, {max(stored, 0)} are there")
    return claim


def _nrrd_claim(path: Path, content: bytes) -> VoxelClaim:
    if not re.match(rb"NRRD000[1-9]\r?\n", content):
        raise ValueError("is no NRRD file")
    end = re.search(rb"\r?\n\r?\n", content)
    header = content[: end.start()] if end else content
    fields: dict[str, str] = {}
    listed: list[str] = []
    for line in header.decode("latin-1").splitlines()[1:]:
        name, separator, value = line.partition(": ")
        name = name.strip().lower()
        if "data file" in fields and fields["data file"].lower().startswith(LIST_OF_FILES) and line.strip():
            listed.append(line.strip())
        elif separator and not line.startswith("#"):
            name = "data file" if name == "datafile" else name
            if name in fields:
                raise ValueError(f"states '{name}' twice")
            fields[name] = value.strip()
    kind = fields.get("type", "").lower()
    value_bytes = int(fields.get("block size", "0")) if kind == "block" else NRRD_BYTES.get(kind, 0)
    if value_bytes < 1:
        raise ValueError(f"voxels of type '{kind[:40]}' cannot be read")
    shape = _whole_numbers(fields.get("sizes", ""), fields.get("dimension", ""))
    encoding = NRRD_ENCODINGS.get(fields.get("encoding", "raw").lower(), "")
    if not encoding:
        raise ValueError(f"encoding '{fields['encoding'][:40]}' cannot be read")
    if "data file" not in fields:
        if end is None:
            raise ValueError("is cut off within its header")
        return VoxelClaim(shape, value_bytes, encoding, (path,), end.end())
    return VoxelClaim(shape, value_bytes, encoding, _data_files(path, fields["data file"], listed))


def _meta_claim(path: Path, content: bytes) -> VoxelClaim:
    fields: dict[str, str] = {}
    at = 0
    while "elementdatafile" not in fields:
        end = content.find(b"\n", at)
        line = content[at : end if end >= 0 else len(content)].decode("latin-1")
        name, separator, value = line.partition("=")
        if not separator and line.strip():
            raise ValueError("is no MetaImage file")
        name = name.strip().lower()
        if name in fields:
            raise ValueError(f"states '{name}' twice")
        if separator:
            fields[name] = value.strip()
        at = end + 1
        if end < 0:
            break
    if "elementdatafile" not in fields or (at <= 0 and fields["elementdatafile"].lower() == "local"):
        raise ValueError("is cut off within its header, or no MetaImage file")
    kind = fields.get("elementtype", "").upper().removesuffix("_ARRAY")
    value_bytes = META_BYTES.get(kind, 0)
    if not value_bytes:
        raise ValueError(f"voxels of type '{kind[:40]}' cannot be read")
    channels = _whole_numbers(fields.get("elementnumberofchannels", "1"), "1")
    shape = (*_whole_numbers(fields.get("dimsize", ""), fields.get("ndims", "")), *channels)
    packed = fields.get("compresseddata", "").lower() in ("true", "1", "t")
    text = fields.get("binarydata", "true").lower() in ("false", "0", "f")
    encoding = PACKED if packed else TEXT if text else RAW
    if packed and int(fields.get("compresseddatasize", "0")) > path.stat().st_size and at > 0:
        local = fields["elementdatafile"].lower() == "local"
        if local:
            raise ValueError(f"{fields['compresseddatasize']} compressed bytes are claimed, the file is smaller")
    offset = int(fields.get("headersize", "0"))
    if offset < -1:
        raise ValueError(f"HeaderSize is {offset}")
    if fields["elementdatafile"].lower() == "local":
        return VoxelClaim(shape, value_bytes, encoding, (path,), at)
    lines = content[at:].decode("latin-1").split() if at > 0 else []
    return VoxelClaim(shape, value_bytes, encoding, _data_files(path, fields["elementdatafile"], lines), offset)


def _data_files(path: Path, named: str, listed: list[str]) -> tuple[Path, ...]:
    """Files in or below the folder of the header.

    Raises:
        InputError: one of them lies elsewhere, or their names are a pattern.
    """
    if named.lower().split(" ")[0] == LIST_OF_FILES:
        names = listed
    elif "%" in named:
        raise InputError(
            f"{path}: its voxels are in several files, {named[:60]}. Cure: save them as one file, such as NIfTI"
        )
    else:
        names = [named]
    if not names:
        raise ValueError("names no file with its voxels")
    return tuple(confined_path(path.parent, name, path) for name in names)


def _whole_numbers(text: str, count: str) -> tuple[int, ...]:
    """Sizes of at least 1.

    Raises:
        ValueError: others than `count` of them, or another text.
    """
    words = text.split()
    if not words or len(words) > MOST_AXES or any(not re.fullmatch(r"[0-9]{1,18}", word) for word in (*words, count)):
        raise ValueError(f"sizes '{text[:60]}' are no whole numbers")
    if len(words) != int(count) or any(int(word) < 1 for word in words):
        raise ValueError(f"sizes '{text[:60]}' are not {count} whole numbers above 0")
    return tuple(map(int, words))


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: cannot be read, {reason}. Cure: copy or export it again")
