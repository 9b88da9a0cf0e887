"""Reader of the safetensors format: a header of names, types and places, then the bytes of the tensors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, BinaryIO

import torch

from monai_ext.errors import InputError

TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
LENGTH_BYTES = 8
MAXIMUM_HEADER = 100_000_000  # the limit of the format; a larger number is no length but another file


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins as a safetensors file does, whatever its name."""
    with Path(path).open("rb") as file:
        start = file.read(LENGTH_BYTES + 1)
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    return len(start) > LENGTH_BYTES and start[LENGTH_BYTES:] == b"{" and 2 <= length <= MAXIMUM_HEADER


def read_safetensors(path: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of a file, on the CPU, in memory of their own.

    The format: 8 bytes, length of the header, little endian; the header, JSON `{name: {"dtype", "shape",
    "data_offsets": [begin, end]}}` with an optional `__metadata__`; the tensors, row-major, whose offsets count from
    the end of the header and leave no gap.

    Raises:
        InputError: the file is cut short or breaks a rule of the format; the first tensor that does is named.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        start = LENGTH_BYTES + length
        if size < LENGTH_BYTES or length > MAXIMUM_HEADER or start > size:
            raise _damaged(path, f"a header of {length} bytes does not fit into {size}")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise _damaged(path, f"the header is not JSON ({error!s:.80})") from error
        if not isinstance(header, dict):
            raise _damaged(path, "the header is no object")
        header.pop("__metadata__", None)
        places = sorted((_place(path, name, entry) for name, entry in header.items()), key=lambda place: place[3:])
        end = 0
        for name, _, _, begin, stop in places:
            if begin != end:
                raise _damaged(path, f"{name} begins at byte {begin}, where {end} is due")
            end = stop
        if start + end != size:
            raise _damaged(path, f"{start + end} bytes are due, {size} are there")
        return {name: _tensor(file, dtype, shape, start + begin) for name, dtype, shape, begin, _ in places}


def _place(path: Path, name: str, entry: Any) -> tuple[str, torch.dtype, list[int], int, int]:
    try:
        kind, shape, (begin, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, stop))
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(path, f"{name} lacks dtype, shape or data_offsets") from error
    if kind not in TYPES:
        raise InputError(f"{path}: {name} is of type {kind}, which is not supported. Cure: one of {', '.join(TYPES)}")
    if not whole or stop - begin != math.prod(shape) * TYPES[kind].itemsize:
        raise _damaged(path, f"{name} of shape {shape} and type {kind} cannot lie in bytes {begin} to {stop}")
    return name, TYPES[kind], shape, begin, stop


def _tensor(file: BinaryIO, dtype: torch.dtype, shape: list[int], begin: int) -> torch.Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    if tensor.numel():
        file.seek(begin)
        file.readinto(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))  # type: ignore[attr-defined,arg-type]
    return tensor


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: is no whole safetensors file: {reason}. Cure: fetch it again")
