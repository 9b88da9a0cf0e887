"""What the system does to a run (no memory, no space, a killed process) as one message with a cure."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DENIED = {errno.EROFS, errno.EACCES, errno.EPERM}
BROKEN = {errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN}
MANY_FILES = {errno.EMFILE, errno.ENFILE}
GO_ON = "then the same command again (a training: with --resume True)"
# how torch tells of a worker of a loader that is gone; and of a full /dev/shm, where workers put their batches
KILLED_WORKER = re.compile(
    r"DataLoader worker \(pid\(?s?\)? ?(?P<pids>[\d, ]+)\) (is killed by signal|exited unexpect)"
)
SHARED_MEMORY = re.compile(
    r"unable to (write to|open|mmap|resize|allocate)[^\n]*(/torch_|shared memory)|Bus error", re.IGNORECASE
)
FILE_LIMIT = re.compile(r"Too many open files|received 0 items of ancdata", re.IGNORECASE)
NO_MEMORY = re.compile(
    r"DefaultCPUAllocator: (can't|not enough)|Cannot allocate memory|failed to map segment|std::bad_alloc"
)
LIMITED_MEMORY = re.compile(r"could not create a primitive")  # of oneDNN, which gives this reason for others too
NO_THREAD = re.compile(r"can't start new thread|Resource temporarily unavailable")


def explain(error: BaseException | None) -> str:
    """One line for a person, with "Cure: ..."; empty where the system is not the reason."""
    for one in _chain(error):
        text = _explain_one(one)
        if text:
            return text
    return ""


def _of_a_worker(error: BaseException) -> bool:
    """Whether an error rose where processes talk to each other: a worker that dies while it hands over a batch."""
    step = error.__traceback__
    while step is not None:
        if "multiprocessing" in step.tb_frame.f_code.co_filename:
            return True
        step = step.tb_next
    return False


def _explain_one(error: BaseException) -> str:
    said = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        text = _of_system_call(error)
        if text:
            return text
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"the GPU has not enough memory ({said.split('. ')[0]}). "
            f"Cure: a smaller --batch_size, --patch_size or --sw_batch_size, or a GPU that is free, {GO_ON}"
        )
    if isinstance(error, BrokenProcessPool):
        return (
            "a worker process was killed, most likely for lack of memory. "
            f"Cure: a smaller --num_workers (0: none), {GO_ON}"
        )
    if isinstance(error, EOFError | ConnectionError) and _of_a_worker(error):
        return (
            "a loader's worker is gone, most likely killed for lack of memory. "
            f"Cure: a smaller --num_workers (0: none) or --batch_size, {GO_ON}"
        )
    if not isinstance(error, RuntimeError | MemoryError | OSError | ImportError):
        return ""
    killed = KILLED_WORKER.search(said)
    shared = SHARED_MEMORY.search(said)
    if shared:
        return (
            "the loader's workers have no shared memory left (/dev/shm). "
            f"Cure: more of it (docker run --shm-size 8g) or a smaller --num_workers, {GO_ON}"
        )
    if killed:
        return (
            f"a loader's worker (process {killed['pids'].strip()}) was killed, most likely for lack of memory. "
            f"Cure: a smaller --num_workers (0: none) or --batch_size, {GO_ON}"
        )
    if FILE_LIMIT.search(said):
        return _many_files()
    if isinstance(error, MemoryError) or NO_MEMORY.search(said) or (LIMITED_MEMORY.search(said) and _is_limited()):
        detail = f" ({said.splitlines()[0]:.160})" if said else ""
        return (
            f"not enough memory{detail}. Cure: a smaller --num_workers, --batch_size or --patch_size, "
            f"or a machine with more memory, {GO_ON}"
        )
    if NO_THREAD.search(said):
        return (
            f"no more processes or threads are allowed. Cure: a smaller --num_workers or a higher `ulimit -u`, {GO_ON}"
        )
    return ""


def _of_system_call(error: OSError) -> str:
    number, place = error.errno, f"{error.filename}: " if error.filename else ""
    said = os.strerror(number or 0)
    if number in FULL:
        limit = " or a higher `ulimit -f`" if number == errno.EFBIG else ""
        return f"{place}cannot be written ({said}). Cure: free space{limit}, {GO_ON}"
    if number in DENIED:
        return f"{place}may not be read or written ({said}). Cure: change its rights, or name another place"
    if number in BROKEN:
        return f"{place}the disk failed ({said}). Cure: look after the disk or its connection, {GO_ON}"
    if number in MANY_FILES:
        return f"{place}{_many_files()}"
    if number == errno.ENOMEM:
        return f"{place}not enough memory ({said}). Cure: a smaller --num_workers or --batch_size, {GO_ON}"
    return ""


def _is_limited() -> bool:
    """Whether the memory of this process has a limit (`ulimit -v`)."""
    return resource is not None and resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _many_files() -> str:
    return f"too many open files. Cure: a higher `ulimit -n` or a smaller --num_workers, {GO_ON}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
