"""Efficiency of weak scaling on many GPUs, computed from the counted messages of a step and a named interconnect.

No cluster was measured: the counts are (`step_messages`), every other number is an assumption with a key.

A step on N GPUs is the forward pass, the backward pass with the all-reduce of each bucket of gradients behind it, and
the optimiser. A bucket is sent when its gradients are complete and the bucket before it is through; what is not through
when the backward pass ends is waited for. Messages of the loss are waited for at once.

An all-reduce of b bytes takes the shorter of two ways (Thakur, Rabenseifner, Gropp 2005; Sanders, Speck, Traff 2009):

- ring: 2 (N - 1) messages one after the other, 2 (N - 1) / N of the bytes over the narrowest link;
- two trees: 2 log2(machines) messages between machines and 2 (GPUs of a machine - 1) within, twice the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

from monai_ext.benchmark.measurement_rows import format_table, read_rows
from monai_ext.benchmark.step_messages import StepMessages
from monai_ext.benchmark.weak_scaling import COLUMNS
from monai_ext.errors import InputError, Problems

MOST_GPUS = 1024
SHOWN = ("gpus", "machines", "sent_ms", "waited_ms", "step_ms", "efficiency")


@dataclass(frozen=True)
class Interconnect:
    """What is assumed of machines and network.

    Attributes:
        link_gbits: nominal rate of one link of a machine to the network, in Gbit/s per direction.
        links: links of a machine.
        gpus: GPUs of a machine.
        link_share: share of the nominal rate that a large all-reduce reaches.
        inside_gbits: rate between the GPUs of a machine, in Gbit/s per GPU and direction.
        latency_us: of a message between machines, software included, in microseconds.
        inside_latency_us: of a message within a machine.
        launch_us: of starting one collective operation.
        overlap_cost: seconds by which the backward pass is longer, per second in which messages travel beside it.
        jitter: standard deviation of a rank's step, as a share of it; all wait for the slowest of N (normal deviates,
            independent).
    """

    link_gbits: float = 400
    links: int = 8
    gpus: int = 8
    link_share: float = 0.8
    inside_gbits: float = 2400
    latency_us: float = 5
    inside_latency_us: float = 1.5
    launch_us: float = 20
    overlap_cost: float = 0.1
    jitter: float = 0.005

    def check(self) -> None:
        """Raise one `InputError` that lists all impossible values."""
        problems = Problems("benchmark scaling_model")
        for field in fields(self):
            value = getattr(self, field.name)
            may_be_zero = field.name.endswith(("latency_us", "launch_us", "cost", "jitter"))
            whole = field.name in ("links", "gpus")
            if (
                not isinstance(value, int if whole else int | float)
                or isinstance(value, bool)
                or not math.isfinite(value)
                or value < 0
                or (value == 0 and not may_be_zero)
            ):
                rule = (
                    "is no whole number from 1 on"
                    if whole
                    else "is no number from 0 on"
                    if may_be_zero
                    else "is not > 0"
                )
                problems.add(f"--{field.name} {value}", rule, f"such as {field.default}")
        if not problems.lines and self.link_share > 1:
            problems.add(f"--link_share {self.link_share}", "is above 1", "such as 0.8")
        problems.raise_if_any()

    def all_reduce(self, size: float, ranks: int) -> float:
        """Seconds until `size` bytes are summed over `ranks` GPUs, full machines first; 0 for one."""
        if ranks == 1:
            return 0.0
        machines = math.ceil(ranks / self.gpus)
        within = min(ranks, self.gpus)
        rate = self.inside_gbits
        if machines > 1:  # the rings of a machine share its links
            rate = min(rate, self.link_gbits * self.links * self.link_share)
        seconds = size * 8 / (rate * 1e9)
        outer, inner = self.latency_us * 1e-6, self.inside_latency_us * 1e-6
        hops = machines if machines > 1 else 0  # of a ring, those that leave a machine
        ring = 2 * (ranks - 1) / ranks * seconds + 2 * (ranks - 1) / ranks * (hops * outer + (ranks - hops) * inner)
        tree = 2 * seconds + 2 * (math.ceil(math.log2(machines)) * outer + (within - 1) * inner)
        return self.launch_us * 1e-6 + min(ring, tree)


@dataclass(frozen=True)
class ScaledTime:
    """One number of GPUs.

    Attributes:
        gpus, machines: of the training.
        sent: seconds in which messages travel.
        waited: those of them in which nothing is computed.
        step: seconds of a step.
        efficiency: time of a step on one GPU over `step`.
    """

    gpus: int
    machines: int
    sent: float
    waited: float
    step: float
    efficiency: float


def scaled_time(messages: StepMessages, interconnect: Interconnect, ranks: int) -> ScaledTime:
    """Step time on `ranks` GPUs."""
    sent, through = 0.0, 0.0
    for size, share in zip(messages.buckets, messages.ready, strict=True):
        seconds = interconnect.all_reduce(size, ranks)
        sent += seconds
        through = max(through, share * messages.backward) + seconds
    beside = max(0.0, sent - max(0.0, through - messages.backward))
    waited = max(0.0, through - messages.backward)
    others = messages.others * interconnect.all_reduce(messages.other_bytes / max(1, messages.others), ranks)
    step = messages.seconds + waited + others + interconnect.overlap_cost * beside
    step += messages.seconds * interconnect.jitter * _slowest_of(ranks)
    machines = math.ceil(ranks / interconnect.gpus)
    return ScaledTime(ranks, machines, sent + others, waited + others, step, messages.seconds / step)


def with_step_time(messages: StepMessages, seconds: float) -> StepMessages:
    """The same counts for a device whose step takes `seconds`: its parts keep their shares."""
    factor = seconds / messages.seconds
    return replace(
        messages,
        forward=messages.forward * factor,
        backward=messages.backward * factor,
        update=messages.update * factor,
    )


def counted_messages(results: Path, bundle: str) -> StepMessages:
    """Counts of a bundle from a result file: those of its last row that has any.

    Raises:
        InputError: the file has none.
    """
    rows = [row for row in read_rows(results, COLUMNS) if row["bundle"] == bundle and row["buckets"]]
    if not rows:
        raise InputError(f"{results}: has no counts of {bundle}. Cure: benchmark scaling --bundle {bundle} first")
    try:
        return StepMessages.from_columns(rows[-1])
    except ValueError as error:
        raise InputError(f"{results}: row of {bundle}: {error}. Cure: benchmark scaling again") from error


def print_model(results: Path, bundle: str, step_ms: float, most: int, assumed: Mapping[str, Any]) -> None:
    """Print the table of `format_model`; see `BenchmarkCommands.scaling_model`.

    Raises:
        InputError: an option is unknown or impossible, or the file has no counts of the bundle.
    """
    known = [field.name for field in fields(Interconnect)]
    problems = Problems("benchmark scaling_model")
    for name in assumed:
        if name not in known:
            problems.add(f"--{name}", "unknown", f"of {', '.join(known)}")
    if isinstance(step_ms, bool) or not isinstance(step_ms, int | float) or not 0 <= step_ms < math.inf:
        problems.add(f"--step_ms {step_ms}", "is no number from 0 on", "milliseconds of a step on one GPU")
    problems.raise_if_any()
    interconnect = Interconnect(**assumed)
    interconnect.check()
    messages = counted_messages(results, bundle)
    print(format_model(with_step_time(messages, step_ms / 1e3) if step_ms else messages, interconnect, most))


def format_model(messages: StepMessages, interconnect: Interconnect, most: int = MOST_GPUS) -> str:
    """Text table for 1, 2, 4, ... GPUs, with the counts and the assumptions above it."""
    size = messages.gradient_bytes / 2**20
    told = [
        f"counted: {size:.1f} MiB of gradients in {len(messages.buckets)} messages, {messages.others} others; "
        f"step of one GPU {messages.seconds * 1e3:.4g} ms, {messages.backward / messages.seconds:.0%} of it backward",
        "assumed: " + ", ".join(f"{field.name} {getattr(interconnect, field.name)}" for field in fields(interconnect)),
    ]
    rows = [_cells(scaled_time(messages, interconnect, n)) for n in numbers_of_gpus(most)]
    return "\n".join([*told, format_table(rows, SHOWN, 0)])


def numbers_of_gpus(most: int) -> list[int]:
    """Powers of two up to `most`.

    Raises:
        InputError: `most` is no whole number from 1 on.
    """
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise InputError(f"benchmark scaling_model: --most {most} is no whole number from 1 on. Cure: {MOST_GPUS}")
    return [2**power for power in range(most.bit_length())]


def _cells(time: ScaledTime) -> Mapping[str, Any]:
    return {
        "gpus": time.gpus,
        "machines": time.machines,
        "sent_ms": f"{time.sent * 1e3:.3g}",
        "waited_ms": f"{time.waited * 1e3:.3g}",
        "step_ms": f"{time.step * 1e3:.4g}",
        "efficiency": f"{time.efficiency:.3f}",
    }


def _slowest_of(ranks: int) -> float:
    """Expected largest of that many standard normal deviates, by Blom's approximation; 0 for one."""
    return NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25)) if ranks > 1 else 0.0
