"""Timing of repeated steps: warmed up, synchronised with the device, with percentiles."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Timing:
    """Seconds of the timed steps.

    Attributes:
        seconds: of every timed step, in order.
        batch_size: images (3D), slices (2D) or whole cases per step.
        warmup_steps: steps before, not timed.
        voxels: of all timed steps together; 0 where they were not counted.
    """

    seconds: tuple[float, ...]
    batch_size: int
    warmup_steps: int
    voxels: int = 0

    def statistics(self) -> dict[str, float]:
        """Images per second and milliseconds per step.

        `throughput` is batch / mean(dt), what a long run delivers; `mean_rate` is mean(batch / dt), which some
        reports give and which is never smaller. `voxels_per_second` is there if voxels were counted.
        """
        dt = np.array(self.seconds)
        result = {
            "throughput": self.batch_size / dt.mean(),
            "mean_rate": float((self.batch_size / dt).mean()),
            "latency_ms_mean": dt.mean() * 1e3,
        }
        result |= {f"latency_ms_{p}": float(np.percentile(dt, p)) * 1e3 for p in PERCENTILES}
        result["latency_ms_max"] = dt.max() * 1e3
        if self.voxels:
            result["voxels_per_second"] = self.voxels / dt.sum()
        return {name: float(value) for name, value in result.items()}


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_steps(
    step: Callable[[], object], device: torch.device, batch_size: int, warmup_steps: int, bench_batches: int
) -> Timing:
    """Call `step` `warmup_steps` times, then `bench_batches` times with the clock running.

    The device is synchronised before and after every timed step, so that a step's time is its own.
    """
    for _ in range(warmup_steps):
        step()
    seconds = []
    for _ in range(bench_batches):
        synchronize(device)
        start = time.perf_counter()
        step()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return Timing(tuple(seconds), batch_size, warmup_steps)


def peak_memory_mib(device: torch.device) -> float:
    """Most memory in use so far: of the device on CUDA, of the process elsewhere (0 where the system does not tell)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB elsewhere


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an exception tells that a device or this machine had too little memory; processors have no own type."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and ("can't allocate memory" in str(error) or "out of memory" in str(error))
