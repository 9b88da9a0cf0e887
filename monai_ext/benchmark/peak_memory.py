"""Peak memory of one piece of work, in a process of its own that has done nothing else."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
ERROR_CHARACTERS = 500


def measure_in_process(
    make: str, side: str, arguments: Mapping[str, Any], tiny: Mapping[str, Any], threads: int = 0
) -> tuple[float, float]:
    """Do one side of a comparison once in a fresh process.

    The same work is done with `tiny` arguments first, so that imports and compiled code count as the start.

    Args:
        make: `module:function` that builds the `Work`.
        side: task of it that is run.
        arguments: of the function; JSON.
        tiny: the same for the warm-up.
        threads: of torch; 0 leaves the default.

    Returns:
        Peak resident memory above the start in MiB (0 where the system is not Linux), and seconds.

    Raises:
        RuntimeError: the process failed; the message holds the end of what it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        order = {"make": make, "side": side, "arguments": dict(arguments), "tiny": dict(tiny), "threads": threads}
        command = [sys.executable, "-m", __name__, json.dumps(order), str(result)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode or not result.is_file():
            raise RuntimeError(f"{make}, {side}: exit status {done.returncode}: {done.stderr[-ERROR_CHARACTERS:]}")
        measured = json.loads(result.read_text(encoding="utf-8"))
    return measured["peak_mib"], measured["seconds"]


def _measure(order: Mapping[str, Any]) -> dict[str, float]:
    import torch

    if order["threads"]:
        torch.set_num_threads(order["threads"])
    module, function = order["make"].split(":")
    make = getattr(import_module(module), function)
    task = make(only=order["side"], **order["tiny"]).tasks[order["side"]]
    task.run(*(task.prepare() if task.prepare else ()))
    task = make(only=order["side"], **order["arguments"]).tasks[order["side"]]
    arguments = task.prepare() if task.prepare else ()
    before = _start_anew()
    start = time.perf_counter()
    result = task.run(*arguments)
    seconds = time.perf_counter() - start
    peak = _status_mib("VmHWM")
    del result
    return {"peak_mib": max(0.0, peak - before), "seconds": seconds}


def _start_anew() -> float:
    """Give freed memory back, forget the peak so far, and return the resident memory in MiB."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):  # else the peak of making the inputs may hide that of the work
        Path("/proc/self/clear_refs").write_text("5")
    return _status_mib("VmRSS")


def _status_mib(field: str) -> float:
    if not STATUS.exists():
        return 0.0
    found = re.search(rf"^{field}:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)
    return int(found[1]) / 2**10 if found else 0.0


def main() -> None:
    """Entry point of the measuring process: an order as JSON, the file for the result."""
    Path(sys.argv[2]).write_text(json.dumps(_measure(json.loads(sys.argv[1]))), encoding="utf-8")


if __name__ == "__main__":
    main()
