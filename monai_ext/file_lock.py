"""One process at a time: a lock file that says who holds it, and that ends with its holder, however that ends.

The lock is the kernel's (`flock`), not the existence of the file: it goes with the process, also by SIGKILL or at a
power failure, and the file may stay for ever. What the file contains, process, host and begin, is for messages, and
tells that an earlier holder ended without releasing.

Network disks: NFS hands `flock` to its server, so that it holds between machines, unless the disk is mounted with
`nolock` or `local_lock`; then it holds between processes of one machine only. Where a file system has no such lock
(Lustre without `-o flock`) and on systems without `fcntl`, the content of the file decides, which tells processes of
this machine that live from dead ones, but neither processes of other machines nor two that start in the same instant.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from monai_ext.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

logger = logging.getLogger(__name__)
POLL_SECONDS = 0.2
RECORD_BYTES = 4096
RECORD_TRIES = 10
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class LockedError(InputError):
    """Another process holds the lock."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
        pid: process number.
        host: name of the machine.
        since: begin, seconds since 1970.
        birth: when the process began, in ticks of its machine's clock, as numbers are used again; 0 if not known.
    """

    pid: int
    host: str
    since: float
    birth: int = 0

    @classmethod
    def this_process(cls) -> Holder:
        return cls(os.getpid(), socket.gethostname(), round(time.time(), 3), process_birth(os.getpid()))

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        return self.host == socket.gethostname()

    @property
    def is_dead(self) -> bool:
        """Whether the process is known to have ended; False for other machines."""
        if not self.is_here or os.name != "posix":
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return self.birth != process_birth(self.pid)

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host} (since {since})"


class FileLock:
    """A lock that one process holds at a time.

    Children that are forked while it is held (workers of a loader) do not hold it: it ends with this process. A
    program that is given `descriptor` by `pass_fds` does.

    Args:
        path: of the lock file; its folder is made, the file stays.
        what: is locked, for messages.
        cure: what a person is to do if another process holds it.

    Attributes:
        taken_over: the earlier holder, if that ended without releasing.
    """

    def __init__(self, path: str | Path, what: str, cure: str = "wait until it ends, or stop it") -> None:
        self.path = Path(path)
        self.what = what
        self.cure = cure
        self.taken_over: Holder | None = None
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    @property
    def in_place(self) -> bool:
        """Whether it is held and its file is still there; once that is removed, others lock a new one."""
        return self._descriptor is not None and self._is_in_place(self._descriptor)

    @property
    def descriptor(self) -> int | None:
        """File descriptor of the lock while it is held."""
        return self._descriptor

    def holder(self) -> Holder | None:
        """Who holds it, or held it last and did not release it; None if the file does not tell."""
        try:
            with self.path.open("rb") as file:
                return _read(file.read(RECORD_BYTES))
        except OSError:
            return None

    def acquire(self, patience: float = 0.0, tick: Callable[[], None] = lambda: None) -> None:
        """Take the lock.

        Args:
            patience: seconds to wait for another holder; a message tells that it waits.
            tick: called several times a second while waiting; what it raises ends the wait.

        Raises:
            LockedError: another process holds it for longer than `patience`; names it.
            InputError: the lock file cannot be made.
        """
        if self.held:
            return
        begun = time.monotonic()
        told = False
        while not self._try():
            who = self._present_holder()
            if time.monotonic() - begun >= patience:
                raise LockedError(f"{self.what} is in use by {who}. Cure: {self.cure}")
            if not told:
                logger.warning("%s is in use by %s: waiting for it", self.what, who)
                told = True
            tick()
            time.sleep(POLL_SECONDS)
        if told:
            logger.info("%s is free after %.0f s", self.what, time.monotonic() - begun)
        if self.taken_over is not None:
            logger.info("%s: %s ended without releasing it; taken over", self.what, self.taken_over)

    def _present_holder(self) -> str:
        # who has just taken the lock needs a moment to write down its name over that of its predecessor
        for _ in range(RECORD_TRIES):
            holder = self.holder()
            if holder is not None and not holder.is_dead:
                return str(holder)
            time.sleep(POLL_SECONDS / RECORD_TRIES)
        return "another process"

    def release(self, remove: bool = False) -> None:
        """Give it back; nothing happens if it is not held.

        Args:
            remove: take the file away too, while it is still locked: who waits for it then locks a new one.
        """
        in_place = self.in_place
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            if remove and in_place:
                self.path.unlink(missing_ok=True)
            os.ftruncate(descriptor, 0)
        except OSError:
            pass  # opened for reading only, or the disk is gone: the record then names a process that has ended
        finally:
            _open_locks.discard(self)
            os.close(descriptor)

    def _try(self) -> bool:
        try:
            descriptor = self._open()
        except OSError as error:
            raise self._unusable(error) from error
        self._descriptor = descriptor
        _open_locks.add(self)  # before it is locked: a child forked from now on drops it
        taken = False
        try:
            taken = self._lock(descriptor)
        except OSError as error:
            raise self._unusable(error) from error
        finally:
            if not taken:
                self._descriptor = None
                _open_locks.discard(self)
                os.close(descriptor)
        return taken

    def _unusable(self, error: OSError) -> InputError:
        return InputError(
            f"{self.path}: cannot be used to lock {self.what} ({error.strerror}). "
            "Cure: change the rights of the file and its folder, or name another folder"
        )

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            return os.open(self.path, os.O_RDONLY)  # another person's file can still be locked

    def _lock(self, descriptor: int) -> bool:
        former = _read(os.pread(descriptor, RECORD_BYTES, 0) if hasattr(os, "pread") else self.path.read_bytes())
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, "no flock")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            former = _read(os.pread(descriptor, RECORD_BYTES, 0))
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            if former is not None and former.is_here and not former.is_dead:
                return False
            if former is not None and not former.is_here:
                logger.warning("%s: no locks on this disk, and %s may still use it", self.what, former)
        if not self._is_in_place(descriptor):
            return False  # removed in the meantime: others lock a new file of this name
        self.taken_over = former
        try:
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, json.dumps(asdict(Holder.this_process())).encode() + b"\n")
        except OSError:
            logger.debug("%s: cannot say who holds it", self.path)  # a full disk, say: the lock holds all the same
        return True

    def _is_in_place(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except OSError:
            return False

    @contextmanager
    def holding(self, patience: float = 0.0, tick: Callable[[], None] = lambda: None) -> Iterator[Self]:
        """Hold it for a `with` block; arguments and errors of `acquire`."""
        self.acquire(patience, tick)
        try:
            yield self
        finally:
            self.release()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


_open_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _drop_in_child() -> None:
    """Close what a forked child inherited; the lock itself stays with the parent."""
    for lock in list(_open_locks):
        if lock._descriptor is not None:
            os.close(lock._descriptor)
            lock._descriptor = None
    _open_locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_in_child)


def _read(content: bytes) -> Holder | None:
    try:
        kept = json.loads(content)
        return Holder(int(kept["pid"]), str(kept["host"]), float(kept["since"]), int(kept["birth"]))
    except (ValueError, KeyError, TypeError):
        return None


def process_birth(pid: int) -> int:
    """Start of a process in clock ticks since the machine's, 0 where `/proc` does not tell."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(content.rpartition(")")[2].split()[19])  # the name before it may hold anything
    except (OSError, ValueError, IndexError):
        return 0
