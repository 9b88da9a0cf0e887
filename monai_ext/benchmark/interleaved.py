"""Times several ways to do one thing in turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from monai_ext.benchmark.timing import synchronize

LEAST_SECONDS = 0.02  # of one timing; shorter calls are repeated within it
MOST_CALLS = 1000
QUICK_SECONDS = 1.0  # a first call longer than this tells the duration well enough


@dataclass(frozen=True)
class Task:
    """One way to do it.

    Attributes:
        run: what is timed; gets what `prepare` returned.
        prepare: called before every call of `run`, outside of the clock, and returns its arguments.
        calls: fewest calls per round; a round's time is their mean. For work whose duration is drawn at random.
        warmup: calls before the first round.
    """

    run: Callable[..., object]
    prepare: Callable[[], tuple[Any, ...]] | None = None
    calls: int = 1
    warmup: int = 1


@dataclass(frozen=True)
class Interleaved:
    """Seconds per call of every task, one number a round, in the order of the rounds."""

    seconds: Mapping[str, tuple[float, ...]]

    def spread(self, name: str) -> tuple[float, float, float]:
        """Least, median and largest seconds of a task."""
        values = self.seconds[name]
        return min(values), median(values), max(values)

    def ratio(self, name: str, to: str) -> float:
        """How many times as long `name` takes as `to`: the median of the rounds' ratios.

        Where one of them has fewer rounds (`slow_seconds`), the ratio of the medians.
        """
        a, b = self.seconds[name], self.seconds[to]
        if len(a) != len(b):
            return median(a) / median(b)
        return median(x / y for x, y in zip(a, b, strict=True))


def time_interleaved(
    tasks: Mapping[str, Task],
    rounds: int = 7,
    device: torch.device | str = "cpu",
    least_seconds: float = LEAST_SECONDS,
    slow_seconds: float = math.inf,
) -> Interleaved:
    """Warm every task up, then time all of them in each round, every other round in reverse order.

    The device is synchronised before and after every timing. Calls shorter than `least_seconds` are repeated within
    a timing, so that neither the clock nor one interruption decides.

    Args:
        tasks: by name.
        rounds: timings per task, at least 1.
        device: where the tasks compute.
        least_seconds: shortest timing.
        slow_seconds: a task whose first call takes longer has that call as its only round.

    Raises:
        ValueError: fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    device = torch.device(device)
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    calls: dict[str, int] = {}
    for name, task in tasks.items():
        first = _mean_seconds(task, 1, device)
        if first > slow_seconds:
            seconds[name].append(first)
            continue
        for _ in range(task.warmup - 1):
            first = _mean_seconds(task, 1, device)
        again = _mean_seconds(task, 1, device) if first < QUICK_SECONDS and task.calls == 1 else first
        calls[name] = max(task.calls, min(MOST_CALLS, math.ceil(least_seconds / max(again, 1e-9))))
    for number in range(rounds):
        for name in list(calls)[:: -1 if number % 2 else 1]:
            seconds[name].append(_mean_seconds(tasks[name], calls[name], device))
    return Interleaved({name: tuple(values) for name, values in seconds.items()})


def _mean_seconds(task: Task, calls: int, device: torch.device) -> float:
    if task.prepare is None:
        synchronize(device)
        start = time.perf_counter()
        for _ in range(calls):
            task.run()
        synchronize(device)
        return (time.perf_counter() - start) / calls
    total = 0.0
    for _ in range(calls):
        arguments = task.prepare()
        synchronize(device)
        start = time.perf_counter()
        task.run(*arguments)
        synchronize(device)
        total += time.perf_counter() - start
    return total / calls
