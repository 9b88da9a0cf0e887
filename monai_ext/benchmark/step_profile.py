"""A trace of a few steps of a benchmark, recorded after the timed ones so that recording does not slow those."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

PROFILED_STEPS = 3


def profile_steps(step: Callable[[], object], folder: str | Path, steps: int = PROFILED_STEPS) -> None:
    """Call `step` a few times under `torch.profiler` and write `<worker>.pt.trace.json` into a folder.

    TensorBoard's profiler plugin, Perfetto and chrome://tracing open the file. One more call before the recorded ones
    takes the profiler's own start.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(
        activities=activities,
        schedule=torch.profiler.schedule(wait=0, warmup=1, active=steps, repeat=1),
        on_trace_ready=torch.profiler.tensorboard_trace_handler(str(folder)),
        record_shapes=True,
    ) as profiler:
        for _ in range(1 + steps):
            step()
            profiler.step()
