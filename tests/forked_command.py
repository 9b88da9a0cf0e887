"""A bundle command as on the command line, in a forked copy of the test process: nothing is imported anew."""

from __future__ import annotations

import importlib.machinery
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pytest

from bundle_commands import NNUNET, Finished
from forked_child import CANNOT_MOUNT

_WAIT_SECONDS = 300
# what a Python program imports late, so that no child has to
_LATE = (
    "monai_ext.engines.config_keys",
    "monai.bundle.scripts",
    "ignite.engine",
    "torch.utils.tensorboard",
    "nibabel",
    "scipy.ndimage",
)


def forked_run(
    cwd: Path,
    run_id: str,
    *configs: str,
    bundle: Path = NNUNET,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
    **overrides: Any,
) -> Finished:
    """Run a bundle command to its end in a working directory; errors are shown and end it as they do a real command.

    Args:
        cwd: working directory.
        run_id: what to run.
        configs: names of config files of the bundle, `train.json` if none are given.
        bundle: folder of the config files.
        before: called in the child first, as to mount a small disk; skips the test if it may not.
        after: called in the child when the command has ended, however it did, while what `before` mounted is there.
        overrides: keys.
    """
    process, out, err = start_forked(cwd, run_id, *configs, bundle=bundle, before=before, after=after, **overrides)
    return finished(process, out, err)


def start_forked(
    cwd: Path,
    run_id: str,
    *configs: str,
    bundle: Path = NNUNET,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
    **overrides: Any,
) -> tuple[ForkProcess, Path, Path]:
    """Start a command as `forked_run` does; the process, and the files of its output and of its errors."""
    for name in _LATE:
        __import__(name)
    number = len(list(cwd.glob("command-*.out")))
    out, err = cwd / f"command-{number}.out", cwd / f"command-{number}.err"
    out.touch()
    files = [str(bundle / name) for name in configs or ("train.json",)]
    arguments = {"run_id": run_id, "config_file": files if len(files) > 1 else files[0], **overrides}
    process = get_context("fork").Process(target=_child, args=(cwd, out, err, before, after, arguments))
    process.start()
    return process, out, err


def finished(process: ForkProcess, out: Path, err: Path) -> Finished:
    """Wait for a command of `start_forked`; 128 less than the status of a shell where a signal ended it."""
    process.join(_WAIT_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        pytest.fail(f"the command did not end:\n{out.read_text()}\n{err.read_text()}")
    if process.exitcode == CANNOT_MOUNT:
        pytest.skip("the system does not let this user mount a disk in memory")
    assert process.exitcode is not None
    return Finished(process.exitcode, out.read_text(errors="replace"), err.read_text(errors="replace"))


def _child(
    cwd: Path, out: Path, err: Path, before: Callable[[], None], after: Callable[[], None], arguments: dict[str, Any]
) -> None:
    import torch
    from monai.bundle import run

    for number, path in ((1, out), (2, err)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.chdir(cwd)
    torch.set_num_threads(1)  # threads of the parent do not exist here
    sys.excepthook = sys.__excepthook__
    sys.modules["__main__"].__spec__ = importlib.machinery.ModuleSpec("monai.bundle.__main__", None)
    status = 0
    try:
        before()
    except PermissionError as error:
        traceback.print_exc()
        raise SystemExit(CANNOT_MOUNT if error.filename == "mount" else 1) from error
    try:
        run(**arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    after()
    sys.stdout.flush()
    sys.stderr.flush()
    raise SystemExit(status)
