"""Fresh memory in pages of 2 MB, which the kernel hands out several times as fast as pages of 4 KB."""

from __future__ import annotations

import ctypes
import mmap
from functools import cache

import torch

SMALLEST = 8 << 20  # bytes; smaller tensors come from memory that has been used before
_ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux only


def on_huge_pages(tensor: torch.Tensor) -> torch.Tensor:
    """Ask for huge pages under a CPU tensor that has not been written yet; the same tensor, changed in nothing else.

    49 MB (3 x 160^3 float32) are first written in 5 ms instead of 23 ms on one core of a virtual machine, whose page
    faults are dear. Where the kernel does not know such pages, or has none left, nothing happens.
    """
    advise = _advise()
    if advise is None or tensor.device.type != "cpu" or tensor.nbytes < SMALLEST:
        return tensor
    first, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    page = mmap.PAGESIZE
    first, end = -(-first // page) * page, end // page * page
    advise(first, end - first, _ADVICE)
    return tensor


@cache
def _advise() -> ctypes._NamedFuncPointer | None:
    if _ADVICE is None:
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    function.restype = ctypes.c_int
    return function
