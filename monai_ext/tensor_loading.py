"""`torch.load` for files of strangers: no code, and no more memory than the file itself accounts for.

`weights_only=True` keeps code out, not size: the pickle inside may call `bytearray(10**11)`, which fills the memory
with zeros, or spread one number over a tensor of 10^6 x 10^6, which does so as soon as it is converted.
"""

from __future__ import annotations

import mmap
import os
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import torch

from monai_ext.archive_checksum import FIRST_SIGNATURE, DamagedArchive

FILLS_MEMORY = b"\nbytearray\n"  # how a pickle of protocol 2, the only one that `weights_only` knows, names it
CLAIMED_RATIO = 16  # bytes of tensors for each byte of the file; expanded or shared ones count as often as they occur
ALWAYS_ALLOWED = 2**28
NO_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")  # PyTorch's words in a RuntimeError


def load_bounded(file: BinaryIO) -> Any:
    """Content of a file open for reading that `check_archive` has passed, on the CPU.

    Raises:
        DamagedArchive: it asks for far more memory than it holds values for, or holds tensors without values.
        MemoryError: there is not enough memory.
        Exception: a damaged pickle makes the unpickler raise nearly any kind.
    """
    _refuse_filling(file)
    file.seek(0)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except RuntimeError as error:
        if any(words in str(error) for words in NO_MEMORY):
            raise MemoryError(str(error)) from error
        raise
    size = os.fstat(file.fileno()).st_size
    claimed = sum(_claimed(tensor) for tensor in _tensors(content))
    if claimed > max(CLAIMED_RATIO * size, ALWAYS_ALLOWED):
        raise DamagedArchive(f"its tensors claim {claimed} bytes, the file has {size}")
    return content


def out_of_memory(path: Any, size: int) -> str:
    """The message for a `MemoryError`; a person can tell a damaged file from a large one by its size."""
    return (
        f"{path}: does not fit into memory; the file has {size / 1e6:.1f} MB. Cure: end other programs or take a "
        "machine with more memory; if the file is much smaller than the memory, it is damaged: fetch it again"
    )


def _refuse_filling(file: BinaryIO) -> None:
    file.seek(0)
    if file.read(len(FIRST_SIGNATURE)) == FIRST_SIGNATURE:  # what torch.load goes by
        with zipfile.ZipFile(file) as archive:
            pickles = [name for name in archive.namelist() if name.endswith(".pkl")]
            found = any(FILLS_MEMORY in archive.read(name) for name in pickles)
    elif os.fstat(file.fileno()).st_size:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = content.find(FILLS_MEMORY) >= 0
    else:
        found = False
    if found:
        raise DamagedArchive("its pickle makes a bytearray, which files of weights do not hold")


def _claimed(tensor: torch.Tensor) -> int:
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise DamagedArchive(f"holds a tensor of layout {tensor.layout} on {tensor.device}, not plain values")
    return tensor.numel() * tensor.element_size()


def _tensors(content: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested mappings and sequences, each once."""
    seen: set[int] = set()
    pending = [content]
    while pending:
        found = pending.pop()
        if isinstance(found, torch.Tensor):
            yield found
        elif id(found) not in seen and isinstance(found, Mapping | list | tuple | set):
            seen.add(id(found))
            pending.extend(found.values() if isinstance(found, Mapping) else found)
