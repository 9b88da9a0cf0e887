"""A bundle command as on the command line, in a forked copy of the test process: nothing is imported anew."""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import runpy
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pytest

from bundle_commands import NNUNET, Finished, environment
from forked_child import CANNOT_MOUNT
from monai_ext.engines import run_protection

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


def typed_run(cwd: Path, line: Sequence[str]) -> Finished:
    """Run a command line of `bundle_commands.command`, parsed as when it is typed, without starting Python anew.

    Args:
        cwd: working directory, in which nothing but the command's own files appears.
        line: `python [options] -m module arguments`; its options give way to ignored warnings.
    """
    for name in _LATE:
        __import__(name)
    with tempfile.TemporaryDirectory() as logs:
        out, err = Path(logs) / "out", Path(logs) / "err"
        out.touch()
        module, *arguments = line[line.index("-m") + 1 :]
        process = get_context("fork").Process(target=_typed, args=(cwd, out, err, module, arguments))
        process.start()
        return finished(process, out, err)


def _typed(cwd: Path, out: Path, err: Path, module: str, arguments: list[str]) -> None:
    _take_over(cwd, out, err)
    warnings.resetwarnings()
    warnings.simplefilter("ignore")
    os.environ |= environment()
    sys.argv = [module, *arguments]
    sys.orig_argv = [sys.executable, "-m", *sys.argv]
    status = _status_of(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True))
    # what the end of Python does, and that of a forked process does not
    for folder in list(run_protection._held):
        run_protection.release_folder(folder)
    raise SystemExit(status)


def _child(
    cwd: Path, out: Path, err: Path, before: Callable[[], None], after: Callable[[], None], arguments: dict[str, Any]
) -> None:
    from monai.bundle import run

    _take_over(cwd, out, err)
    sys.modules["__main__"].__spec__ = importlib.machinery.ModuleSpec("monai.bundle.__main__", None)
    typed = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    sys.orig_argv = [sys.executable, "-m", "monai.bundle", "run", *typed]
    try:
        before()
    except PermissionError as error:
        traceback.print_exc()
        raise SystemExit(CANNOT_MOUNT if error.filename == "mount" else 1) from error
    status = _status_of(lambda: run(**arguments))
    after()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a limit of file sizes holds for the file of the output too
            stream.flush()
    raise SystemExit(status)


def _take_over(cwd: Path, out: Path, err: Path) -> None:
    """Make this child look like a process that was started in a folder, with its output in files."""
    import torch

    for number, path in ((1, out), (2, err)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.chdir(cwd)
    torch.set_num_threads(1)  # threads of the parent do not exist here
    sys.excepthook = sys.__excepthook__


def _status_of(command: Callable[[], Any]) -> int:
    """Exit status of what a process does; an error is shown as Python shows it."""
    try:
        command()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0
