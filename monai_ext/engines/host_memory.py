"""Memory of the process that training frees and needs again in the next step."""

from __future__ import annotations

import ctypes
import logging
import platform
from functools import cache

import torch

logger = logging.getLogger(__name__)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_KEEP = 2**31 - 1  # the largest that mallopt takes: 2 GB
_USUAL = 32 << 20  # where glibc's own adjustment ends on 64-bit systems


def keep_freed(device: torch.device | str) -> bool:
    """Let a process that trains on a CPU keep the memory it frees, instead of returning it to the system every step.

    Large tensors otherwise come from the system each time and are filled with zeros page by page on first touch, which
    takes longer than many an operation on them. Blocks of up to 2 GB are kept; so the process holds what its largest
    step needed until it ends.

    Returns:
        Whether it was done: only on a CPU and with the C library of Linux (glibc).
    """
    return torch.device(device).type == "cpu" and _set_thresholds(_KEEP)


def return_freed() -> bool:
    """As most processes do it: blocks above 32 MB go back to the system at once."""
    return _set_thresholds(_USUAL)


def _set_thresholds(size: int) -> bool:
    library = _glibc()
    if library is None:
        return False
    trim = min(2 * size, _KEEP)
    done = bool(library.mallopt(_M_MMAP_THRESHOLD, size)) and bool(library.mallopt(_M_TRIM_THRESHOLD, trim))
    if not done:
        logger.debug("mallopt refused a threshold of %d bytes", size)
    return done


@cache
def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    library.mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    library.mallopt.restype = ctypes.c_int
    return library
