"""Compiles the C++ form of an op on first use and keeps it: one shared library per op, with a plain C interface.

The library's name holds a hash of source, compiler, flags and processor, so that nothing stale is ever loaded. OpenMP
is taken from torch, so that kernels share its threads and obey `torch.set_num_threads`.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch

from monai_ext.errors import InputError
from monai_ext.file_lock import FileLock

FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-fopenmp")
CACHE_VARIABLE = "MONAI_EXT_CACHE"
TIMEOUT_SECONDS = 300
_OPS = Path(__file__).parent


class BuildError(RuntimeError):
    """There is no compiler, or it failed; the message says which and what it said."""


@cache
def load(op: str) -> ctypes.CDLL:
    """The compiled `kernel.cpp` of an op.

    Raises:
        BuildError: it cannot be built or loaded here.
    """
    path = library(op)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"{path} cannot be loaded: {error}") from error


@cache
def library(op: str) -> Path:
    """Path of the shared library of an op, built if it is not there yet.

    Raises:
        BuildError: it cannot be built here.
    """
    source = _OPS / op / "kernel.cpp"
    compiler = _compiler()
    headers = sorted([*_OPS.glob("*.h"), *source.parent.glob("*.h")])
    text = b"".join(file.read_bytes() for file in (source, *headers))
    key = "\n".join([_version(compiler), *FLAGS, _processor(), torch.__version__]).encode()
    name = f"{op}-{hashlib.sha256(text + key).hexdigest()[:16]}.so"
    path = _cache_folder() / name
    if not path.exists():
        _build_once(compiler, source, path)
    return path


def _build_once(compiler: str, source: Path, path: Path) -> None:
    """One process builds, the others wait for it."""
    lock = FileLock(path.with_suffix(".lock"), f"building {path.name}")
    try:
        lock.acquire(2 * TIMEOUT_SECONDS)
    except InputError as error:
        raise BuildError(str(error)) from error
    try:
        if not path.exists():
            _build(compiler, source, path)
    finally:
        lock.release()


def _build(compiler: str, source: Path, path: Path) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    runtime = Path(torch.__file__).parent / "lib"
    command = [compiler, *FLAGS, f"-I{_OPS}", str(source), "-o", str(partial)]
    # torch's own OpenMP runtime, where it brings one: a second runtime would have threads of its own
    command += [str(file) for file in sorted(runtime.glob("libgomp*.so*"))[:1]] + [f"-Wl,-rpath,{runtime}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
        if done.returncode:
            raise BuildError(f"{compiler} failed: {done.stderr.strip()[-2000:] or done.returncode}")
        os.replace(partial, path)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{compiler} failed: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


@cache
def _compiler() -> str:
    if sys.platform not in ("linux", "darwin"):
        raise BuildError(f"C++ forms are built on Linux and macOS only, this is {sys.platform}")
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    for name in wanted:
        found = shutil.which(name)
        if found:
            return found
    raise BuildError(f"no C++ compiler found ({', '.join(wanted)})")


@cache
def _version(compiler: str) -> str:
    try:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{compiler} --version failed: {error}") from error
    return done.stdout


@cache
def _processor() -> str:
    """What `-march=native` depends on: the instruction sets, not the name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        flags = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
        if flags:
            return flags[1]
    return f"{platform.machine()} {platform.processor()}"


@cache
def _cache_folder() -> Path:
    given = os.environ.get(CACHE_VARIABLE)
    folders = [Path(given)] if given else [Path.home() / ".cache" / "monai_ext", _own_temporary_folder()]
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.access(folder, os.W_OK) and _is_own(folder):
                return folder
    raise BuildError(f"no folder to build in: {', '.join(map(str, folders))}. Cure: set {CACHE_VARIABLE}")


def _own_temporary_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"monai_ext-{os.getuid()}"


def _is_own(folder: Path) -> bool:
    """Nobody else may plant a library there."""
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022
