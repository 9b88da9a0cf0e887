"""What goes wrong when cases are stored: nothing can be written, or what was written is damaged."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from monai_ext.errors import InputError

FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


class StorageError(InputError):
    """The store cannot be written: disk, quota or file-size limit reached, or no rights. Nothing partial is left."""


class DamagedCaseError(InputError):
    """A file of a stored case is missing, cut short or has another content than was written."""


def storage_error(error: OSError, folder: Path, what: str, needed: int) -> OSError | StorageError:
    """What to raise for an error of the system: itself if neither rights nor space are the reason."""
    if error.errno in DENIED:
        return StorageError(
            f"{folder}: cannot be written ({os.strerror(error.errno or 0)}). "
            "Cure: change its rights, or point store_dir elsewhere"
        )
    if error.errno not in FULL:
        return error
    free = shutil.disk_usage(folder).free
    written = sum(f.stat().st_size for f in folder.glob("*/*") if not f.parent.name.startswith("."))
    return StorageError(
        f"{folder}: no space left ({os.strerror(error.errno or 0)}) for {what}, which needs {needed / 1e6:.1f} MB; "
        f"{written / 1e6:.1f} MB are stored so far, {free / 1e6:.1f} MB are free. "
        "Cure: free space or raise the quota and run again (finished cases are kept), "
        "or point store_dir to a larger disk"
    )


def rebuild_cure(path: Path) -> str:
    """What to do about a damaged file of a case."""
    return f"Cure: delete {path.parent} and run preprocessing again, which redoes this case only"
