"""What the system does to a run is told in one line; bugs keep their tracebacks."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from forked_child import in_child
from monai_ext.engines.system_errors import explain


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "run/log.jsonl"),
            "run/log.jsonl: cannot be written (No space",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "cannot be written (Disk quota exceeded)"),
        (OSError(errno.EFBIG, "File too large", "last.pt"), "ulimit -f"),
        (OSError(errno.EROFS, "Read-only file system", "a"), "a: may not be read or written (Read-only"),
        (OSError(errno.EIO, "Input/output error", "a"), "a: the disk failed"),
        (OSError(errno.EMFILE, "Too many open files", "a"), "a: too many open files. Cure: a higher `ulimit -n`"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
        (MemoryError(), "not enough memory. Cure: a smaller --num_workers"),
        (MemoryError("Unable to allocate 9 TiB"), "not enough memory (Unable to allocate 9 TiB)"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "the GPU has not enough memory (CUDA"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "a loader's worker (process 7) was"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "(process 7, 8) was killed"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), "docker run --shm-size"),
        (RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)"), "/dev/shm"),
        (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (BrokenProcessPool("a child process terminated abruptly"), "a worker process was killed"),
        (ImportError("x.so: failed to map segment from shared object"), "not enough memory"),
    ],
)
def test_every_failure_of_the_system_has_one_line_and_a_cure(error: Exception, said: str) -> None:
    try:
        raise RuntimeError("Failed to evaluate") from error  # as MONAI's config resolver does
    except RuntimeError as outer:
        text = explain(outer)
    assert said in text
    assert "Cure: " in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "error",
    [
        None,
        ValueError("No space left on device"),
        RuntimeError("could not create a primitive"),
        RuntimeError("shape mismatch"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a"),
        OSError("no number"),
        KeyError("DataLoader worker (pid 7) is killed by signal: Killed."),
    ],
)
def test_bugs_are_not_explained_away(error: Exception | None) -> None:
    assert explain(error) == ""


class DiesInWorker(Dataset[int]):
    """Its second item kills the process that reads it."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_what_torch_says_of_a_killed_worker_is_known(tmp_path: Path) -> None:
    def body() -> None:
        with pytest.raises(RuntimeError) as caught:
            list(DataLoader(DiesInWorker(), batch_size=1, num_workers=1))
        assert "was killed, most likely for lack of memory" in explain(caught.value)

    assert in_child(body, tmp_path / "report") == 0


def test_what_torch_says_of_too_much_memory_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)  # 4 EiB: no machine has them
    assert "not enough memory" in explain(caught.value)


def test_a_worker_that_dies_while_it_hands_over() -> None:
    one, other = multiprocessing.Pipe()
    other.close()
    with pytest.raises(EOFError) as caught:
        one.recv()
    assert "worker is gone" in explain(caught.value)
    assert explain(EOFError()) == ""
