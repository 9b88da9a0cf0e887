"""What the ranks of a training send each other in one step: counted, not computed from the network."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from monai_ext.benchmark.scaled_step import ScaledStep
from monai_ext.benchmark.timing import synchronize

STEPS_BEFORE = 3  # DDP groups gradients anew by the order in which they came, in its first steps
COLLECTIVES = ("gloo:", "nccl:")


@dataclass(frozen=True)
class StepMessages:
    """Counts of one training step.

    Attributes:
        buckets: bytes of each all-reduced group of gradients, in the order in which they are sent.
        ready: share of the backward pass after which each group is complete, in (0, 1].
        forward, backward, update: seconds of the parts of the step, without any message.
        others, other_bytes: messages of any other kind (statistics of the loss, buffers) and their bytes.
    """

    buckets: tuple[int, ...]
    ready: tuple[float, ...]
    forward: float
    backward: float
    update: float
    others: int = 0
    other_bytes: int = 0

    @property
    def gradient_bytes(self) -> int:
        return sum(self.buckets)

    @property
    def seconds(self) -> float:
        """Of the step on one rank."""
        return self.forward + self.backward + self.update

    def columns(self) -> dict[str, Any]:
        """Columns of a result row."""
        return {
            "buckets": " ".join(map(str, self.buckets)),
            "ready": " ".join(f"{share:.4f}" for share in self.ready),
            "messages": len(self.buckets) + self.others,
            "gradient_bytes": self.gradient_bytes,
            "other_messages": self.others,
            "other_bytes": self.other_bytes,
            "forward_ms": f"{self.forward * 1e3:.4g}",
            "backward_ms": f"{self.backward * 1e3:.4g}",
            "update_ms": f"{self.update * 1e3:.4g}",
        }

    @staticmethod
    def from_columns(row: dict[str, str]) -> StepMessages:
        """From a row of a result file that `columns` went into.

        Raises:
            ValueError: a column is missing or no number.
        """
        try:
            return StepMessages(
                buckets=tuple(int(size) for size in row["buckets"].split()),
                ready=tuple(float(share) for share in row["ready"].split()),
                forward=float(row["forward_ms"]) / 1e3,
                backward=float(row["backward_ms"]) / 1e3,
                update=float(row["update_ms"]) / 1e3,
                others=int(row["other_messages"]),
                other_bytes=int(row["other_bytes"]),
            )
        except KeyError as error:
            raise ValueError(f"no column {error}") from None


def count_messages(step: ScaledStep) -> StepMessages:
    """Count the messages of one step of a network wrapped by DDP; all ranks must call it together.

    The gradients stay where they are while the buckets are counted, so that their times are those of the computation.
    The wrapped network cannot train together with others afterwards.
    """
    if not isinstance(step.network, DistributedDataParallel):
        raise TypeError(f"step.network must be wrapped by DDP, got {type(step.network).__name__}")
    for _ in range(STEPS_BEFORE):
        step()
    everything = _collectives(step)
    marks: list[Any] = []
    sizes: list[int] = []

    def counted(state: object, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        gradients = bucket.buffer()
        sizes.append(gradients.numel() * gradients.element_size())
        marks.append(_mark(step.device))
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(gradients)
        return done

    counted.__annotations__.clear()  # DDP compares them with types, and here they are text
    step.network.register_comm_hook(None, counted)
    step()
    forward, _, update = step.phases()
    marks.clear()
    sizes.clear()
    value = step.forward()
    synchronize(step.device)
    start = _mark(step.device)
    value.backward()
    end = _mark(step.device)
    synchronize(step.device)
    backward = _between(start, end)
    ready = tuple(min(1.0, _between(start, mark) / backward) for mark in marks)
    others = everything[0] - len(sizes), everything[1] - sum(sizes)
    return StepMessages(tuple(sizes), ready, forward, backward, update, max(0, others[0]), max(0, others[1]))


def _collectives(step: ScaledStep) -> tuple[int, int]:
    """Messages and bytes of a step as the profiler sees them, whoever sends them."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, record_shapes=True) as profiler:
        step()
        synchronize(step.device)
    found = [event for event in profiler.events() or () if event.name.startswith(COLLECTIVES)]
    # all of them are float32 here: gradients, and sums of the loss
    count = sum(math.prod(shape) * 4 for event in found for shape in event.input_shapes if shape)
    return len(found), count


def _mark(device: torch.device) -> Any:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(a: Any, b: Any) -> float:
    return b - a if isinstance(a, float) else float(a.elapsed_time(b)) / 1e3
