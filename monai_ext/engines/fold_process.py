"""One bundle command in a process of its own: its output is passed on and kept, signals are handed down."""

from __future__ import annotations

import codecs
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, TextIO

logger = logging.getLogger(__name__)
POLL_SECONDS = 0.1
# what a launcher of several ranks tells its processes; a process that starts one of its own must not pass it on
RANK_VARIABLES = re.compile(
    r"^(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_RANK|GROUP_WORLD_SIZE|ROLE_.*|MASTER_ADDR|MASTER_PORT"
    r"|TORCHELASTIC_.*)$"
)
EXCEPTION_LINE = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt)\b.*", re.MULTILINE)


class Stop:
    """Receives SIGINT and SIGTERM while processes run, and hands each signal down to the present one, once.

    The process is in a session of its own, so that Ctrl-C in a terminal does not reach it a second time, which it
    would take for the wish to end without saving.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


def run_process(
    line: Sequence[str],
    log_file: Path,
    stop: Stop,
    environment: Mapping[str, str],
    show: bool = True,
    beat: Callable[[], None] = lambda: None,
    keep_open: Sequence[int] = (),
) -> int:
    """Run a command to its end and return its status (negative: ended by that signal).

    Args:
        line: the command.
        log_file: everything it prints is appended here.
        stop: hands signals down.
        environment: of the process.
        show: also print what it prints.
        beat: called several times a second while it runs.
        keep_open: file descriptors that the process inherits, such as a lock that must live as long as it does.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab", buffering=0) as log:
        process = subprocess.Popen(
            line,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=tuple(keep_open),
        )
        stop.process = process
        if stop.received is not None:  # between the last look and the start
            process.send_signal(stop.received)
        pairs = ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
        threads = [
            threading.Thread(target=_copy, args=(pipe, log, screen if show else None), daemon=True)
            for pipe, screen in pairs
        ]
        for thread in threads:
            thread.start()
        while process.poll() is None:
            beat()
            time.sleep(POLL_SECONDS)
        for thread in threads:
            thread.join(timeout=10)  # a grandchild that lives on may hold the pipe
        stop.process = None
    return process.returncode


def _copy(pipe: IO[bytes], log: IO[bytes], screen: TextIO | None) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    kept = True
    while part := os.read(pipe.fileno(), 2**16):  # to the end, whatever fails: a full pipe would stop the process
        try:
            log.write(part)
        except OSError as error:
            if kept:
                logger.warning("%s: what is printed is not kept any more (%s)", log.name, error.strerror)
            kept = False
        if screen is not None:
            screen.write(decoder.decode(part))
            screen.flush()


def error_message(log_file: Path, since: int = 0) -> str:
    """What a command that failed had to say: from its last `error: ` on, else its first exception, else its last line.

    Args:
        log_file: what it printed.
        since: bytes of the file to skip.
    """
    try:
        with log_file.open("rb") as log:
            log.seek(since)
            text = log.read().decode("utf-8", errors="replace").replace("\r", "\n").strip()
    except OSError:
        return "it left no message"
    start = max(text.rfind("\nerror: ") + 1, 0)
    if text[start:].startswith("error: "):
        return text[start + len("error: ") :]
    cause = EXCEPTION_LINE.search(text)  # of exceptions that led to each other the first is the cause
    if cause is not None:
        return cause[0]
    return text.splitlines()[-1] if text else "it left no message"


def bundle_command(args_file: Path) -> list[str]:
    """Command line that runs a bundle as an `args_file` says, with the warning filters of this process."""
    filters = [part for option in sys.warnoptions for part in ("-W", option)]
    return [sys.executable, *filters, "-m", "monai.bundle", "run", "--args_file", str(args_file)]


def process_environment(local_rank: int = 0, world: int = 1, gpus: Sequence[str] = ()) -> dict[str, str]:
    """Environment of a process: no rank of its own; with several ranks one GPU, which it sees as `cuda:0`."""
    kept = {name: value for name, value in os.environ.items() if not RANK_VARIABLES.match(name)}
    kept["PYTHONUNBUFFERED"] = "1"
    if world > 1 and gpus:
        kept["CUDA_VISIBLE_DEVICES"] = gpus[local_rank % len(gpus)]
    return kept
