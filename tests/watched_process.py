"""Memory and open files of a process, as the system counts them."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Watched:
    """A process that has ended.

    Attributes:
        status: exit status.
        output: what it printed, errors included.
        peak: most resident memory, in bytes.
        seconds: from start to end.
    """

    status: int
    output: str
    peak: int
    seconds: float


def watched(
    command: Sequence[str],
    log: Path,
    cwd: Path,
    limit: float,
    observe: Callable[[int], None] = lambda pid: None,
    **environment: str,
) -> Watched:
    """Run a command and ask the system for its peak until it ends; a peak never falls, so little is missed.

    Args:
        command: program and arguments.
        log: file for its output.
        cwd: working directory.
        limit: seconds after which it is killed.
        observe: called with its number some times a second.
        environment: variables beside those of this process.
    """
    start, most = time.monotonic(), 0
    with log.open("w") as out:
        process = subprocess.Popen(
            list(command), cwd=cwd, env={**os.environ, **environment}, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            while process.poll() is None and time.monotonic() - start < limit:
                most = max(most, peak(process.pid))
                observe(process.pid)
                time.sleep(_POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
    return Watched(process.wait(), log.read_text(), most, time.monotonic() - start)


def resident(pid: int = 0) -> int:
    """Bytes of a process (0: this one) that are in memory now."""
    return _status("VmRSS", pid)


def peak(pid: int = 0) -> int:
    """Most bytes of a process (0: this one) that were in memory at a time."""
    return _status("VmHWM", pid)


def open_files(pid: int = 0) -> int:
    """Open files, pipes and sockets of a process (0: this one)."""
    try:
        return len(os.listdir(f"/proc/{pid or 'self'}/fd"))
    except OSError:  # it has just ended
        return 0


def _status(field: str, pid: int) -> int:
    try:
        text = Path(f"/proc/{pid or 'self'}/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{field}:\s*(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
