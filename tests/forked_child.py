"""A copy of the test process in which a test may kill, fill a disk or limit itself."""

from __future__ import annotations

import ctypes
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KILLED, CANNOT_MOUNT = 9, 77
NEW_MOUNTS, NEW_USER = 0x00020000, 0x10000000  # <sched.h>
READ_ONLY, REMOUNT, RECURSIVE, PRIVATE = 1, 32, 16384, 1 << 18  # <sys/mount.h>


def in_child(body: Callable[[], None], report: Path) -> int:
    """Run `body` in a forked process; its exit status, 0 after a normal end.

    A failure of `body` fails the test with its traceback, which travels in the file `report`; without the right to
    mount, the test is skipped.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            body()
            status = 0
        except PermissionError as error:
            status = CANNOT_MOUNT if error.filename == "mount" else 1
            report.write_text(traceback.format_exc())
        except BaseException:
            report.write_text(traceback.format_exc())
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == CANNOT_MOUNT:
        pytest.skip("the system does not let this user mount a disk in memory")
    if report.exists():
        pytest.fail(report.read_text())
    return status


def mount_small_disk(folder: Path, size: str) -> None:
    """Mount an empty disk of `size` ("512k") that only this process sees and that goes with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    apart = libc.unshare(NEW_MOUNTS) == 0 or libc.unshare(NEW_MOUNTS | NEW_USER) == 0
    if not apart or libc.mount(b"none", b"/", None, RECURSIVE | PRIVATE, None) != 0:
        raise PermissionError(ctypes.get_errno(), "no mounts of one's own", "mount")
    if libc.mount(b"none", bytes(folder), b"tmpfs", 0, f"size={size}".encode()) != 0:
        raise PermissionError(ctypes.get_errno(), "no disk in memory", "mount")


def resize_small_disk(folder: Path, size: str) -> None:
    """Give the disk of `mount_small_disk` another size ("1m"); its files stay."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", bytes(folder), None, REMOUNT, f"size={size}".encode()) != 0:
        raise PermissionError(ctypes.get_errno(), "no remount", "mount")


def make_read_only(folder: Path) -> None:
    """Remount the disk of `mount_small_disk` so that nothing can be written."""
    if ctypes.CDLL(None).mount(b"none", bytes(folder), None, REMOUNT | READ_ONLY, None) != 0:
        raise PermissionError(0, "no remount", "mount")


def die_before(call: int, names: tuple[str, ...] = ("fsync", "link", "replace")) -> None:
    """End this process, as SIGKILL would, before call number `call` of any of these functions of `os`."""
    seen = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **options: Any) -> Any:
            nonlocal seen
            if seen == call:
                os._exit(KILLED)
            seen += 1
            return function(*args, **options)

        return wrapper

    for name in names:
        setattr(os, name, counted(getattr(os, name)))
