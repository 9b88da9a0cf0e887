"""Where a training spends its time: NVTX ranges for NVIDIA's profilers, or a trace for TensorBoard and browsers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from monai_ext.engines import process_group
from monai_ext.errors import InputError

logger = logging.getLogger(__name__)
KINDS = ("off", "nvtx", "trace")


class Profile:
    """Handler that profiles a few steps of a training.

    `nvtx` marks epochs, iterations and batches for Nsight Systems. `trace` records the steps after the first
    `skip_steps` with `torch.profiler` and writes `<worker>.pt.trace.json`, which TensorBoard's profiler plugin,
    Perfetto and chrome://tracing open. `off` attaches nothing and costs nothing.

    Args:
        kind: `off`, `nvtx` or `trace`.
        folder: for the trace.
        skip_steps: first steps, which allocate and compile.
        active_steps: steps recorded.

    Raises:
        InputError: unknown kind, or NVTX without CUDA.
    """

    def __init__(self, kind: str = "off", folder: str | Path = "profile", skip_steps: int = 3, active_steps: int = 5):
        if kind not in KINDS:
            raise InputError(f"--profile {kind}: unknown. Cure: one of {', '.join(KINDS)}")
        if kind == "nvtx" and not torch.cuda.is_available():
            raise InputError("--profile nvtx: marks ranges for CUDA, which is not there. Cure: --profile trace")
        self.kind = kind
        self.folder = Path(folder)
        self.skip_steps = skip_steps
        self.active_steps = active_steps
        self._profiler: Any = None
        self._steps = 0

    def attach(self, engine: Engine) -> None:
        if self.kind == "nvtx":
            from monai.handlers import RangeHandler

            for name in ("epoch", "iteration", "batch"):
                RangeHandler(name).attach(engine)
        elif self.kind == "trace" and process_group.is_first():
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
            for end in (Events.COMPLETED, Events.TERMINATE, Events.INTERRUPT):
                engine.add_event_handler(end, self._stop)
            engine.add_event_handler(Events.EXCEPTION_RAISED, self._stop_and_raise)

    def _start(self, _: Engine) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler = torch.profiler.profile(
            activities=activities,
            schedule=torch.profiler.schedule(wait=self.skip_steps, warmup=1, active=self.active_steps, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
        )
        self._steps = 0  # of this run: a resumed engine's own count goes on from where it stopped
        self._profiler.start()

    def _write(self, profiler: Any) -> None:
        torch.profiler.tensorboard_trace_handler(str(self.folder))(profiler)
        logger.info("profile: a trace is in %s", self.folder)

    def _step(self, engine: Engine) -> None:
        if self._profiler is not None:
            self._profiler.step()
            self._steps += 1
            if self._steps >= self.skip_steps + 1 + self.active_steps:
                self._stop(engine)

    def _stop(self, _: Engine) -> None:
        if self._profiler is not None:
            profiler, self._profiler = self._profiler, None
            profiler.stop()
            if self._steps <= self.skip_steps + 1:
                logger.warning("profile: ended after %d steps, before any was recorded", self._steps)

    def _stop_and_raise(self, engine: Engine, error: BaseException) -> None:
        # Ignite swallows an exception that has a handler, unless the handler raises it again
        self._stop(engine)
        raise error
