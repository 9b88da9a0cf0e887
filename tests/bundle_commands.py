"""The command line of the bundles, as a person would type it; used by tests of several folders."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
NNUNET = REPOSITORY / "bundles" / "nnunet" / "configs"
UNET_EM = REPOSITORY / "bundles" / "unet_em" / "configs"
SE_RESNEXT = REPOSITORY / "bundles" / "se_resnext101" / "configs"
MASK_RCNN = REPOSITORY / "bundles" / "mask_rcnn" / "configs"


@dataclass(frozen=True)
class Finished:
    """A process that has ended."""

    status: int
    out: str
    err: str


def command(run_id: str, *configs: str, bundle: Path = NNUNET, **overrides: Any) -> list[str]:
    """The command line a person would type."""
    files = [str(bundle / name) for name in configs or ("train.json",)]
    given = files[0] if len(files) == 1 else str(files)
    line = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", run_id, "--config_file", given]
    for key, value in overrides.items():
        line += [f"--{key}", str(value)]
    return line


def environment() -> dict[str, str]:
    """Two threads, as on the smallest supported machine; one where workers of pytest share it."""
    threads = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"
    return {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}


def bundle_run(cwd: Path, run_id: str, *configs: str, **overrides: Any) -> Finished:
    """Run a bundle command in a working directory that is not the repository, in a forked copy of the test process.

    Starting Python and importing torch and MONAI takes longer than most of the commands; `fresh_run` does that too.
    """
    from forked_command import typed_run

    if not hasattr(os, "fork"):
        return fresh_run(cwd, run_id, *configs, **overrides)
    return typed_run(cwd, command(run_id, *configs, **overrides))


def fresh_run(cwd: Path, run_id: str, *configs: str, **overrides: Any) -> Finished:
    """`bundle_run` in a process of its own, as a person's."""
    done = subprocess.run(
        command(run_id, *configs, **overrides), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300
    )
    return Finished(done.returncode, done.stdout, done.stderr)
