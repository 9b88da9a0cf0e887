"""Weak scaling: how much longer a training step takes when more ranks do as much each, and what takes it."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import distributed

from monai_ext import cpu_affinity
from monai_ext.benchmark.measurement_rows import (
    append_rows,
    circumstances,
    format_table,
    installed_versions,
    measured_device,
    milliseconds,
)
from monai_ext.benchmark.scaled_step import ScaledStep, StepSize
from monai_ext.benchmark.step_messages import StepMessages, count_messages
from monai_ext.engines import process_group
from monai_ext.engines.data_parallel import data_parallel
from monai_ext.errors import InputError, Problems

ALONE, APART, CHOSEN = "alone", "apart", "chosen"
Seconds = tuple[float, float]  # of a step: of the clock, of the processor
Side = Callable[[int], Seconds]  # one block of steps; gets the number of the round
# what `data_parallel` may be asked for; `chosen` is what it does by itself
SETTINGS: dict[str, dict[str, Any]] = {
    CHOSEN: {},
    "dynamic_graph": {"static_graph": False},
    "copied_gradients": {"gradients_in_buckets": False},
    "bucket_5_mb": {"bucket_mb": 5},
    "bucket_100_mb": {"bucket_mb": 100},
}
COLUMNS = (
    "bundle",
    "side",
    "ranks",
    "patch_size",
    "batch_size",
    "base_features",
    "precision",
    "min_ms",
    "median_ms",
    "max_ms",
    "cpu_ms",
    "rounds",
    "steps",
    "efficiency",
    "least_efficiency",
    "most_efficiency",
    "messages",
    "gradient_bytes",
    "other_messages",
    "other_bytes",
    "buckets",
    "ready",
    "forward_ms",
    "backward_ms",
    "update_ms",
    "threads",
    "device",
    "versions",
    "commit",
    "date",
)
SHOWN = (*COLUMNS[:4], *COLUMNS[7:12], *COLUMNS[13:16])


def run_weak_scaling(
    size: StepSize,
    ranks: int = 2,
    rounds: int = 5,
    steps: int = 2,
    settings: Sequence[str] = (CHOSEN,),
    results: str = "",
    device: str = "cpu",
) -> None:
    """Start the ranks with torchrun, one thread each on the CPU, and let the first print and append the rows.

    Args:
        size: what every rank does in a step, whatever their number.
        ranks: processes; on a GPU one per GPU.
        rounds, steps: blocks of every side, in turns, and steps in a block.
        settings: names of `SETTINGS`.
        results: CSV file to append the rows to; empty for none.
        device: `cpu` or `cuda`.

    Raises:
        InputError: an option is impossible, or a rank failed.
    """
    _check(ranks, rounds, steps, settings, device)
    size.checked(torch.device(device))
    line = ["--bundle", size.bundle, "--device", device, "--rounds", str(rounds), "--steps", str(steps)]
    line += ["--patch_size", ",".join(map(str, size.patch_size))] if size.patch_size else []
    line += ["--batch_size", str(size.batch_size), "--base_features", str(size.base_features), "--amp", str(size.amp)]
    line += ["--settings", ",".join(settings), "--ranks", str(ranks)]
    line += ["--results", str(Path(results).resolve())] if results else []
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(ranks), "--standalone"]
    command = [*launcher, "-m", "monai_ext", "benchmark", "scaling", *line]
    status = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode
    if status:
        raise InputError(f"benchmark scaling: a rank ended with status {status}; its message is above")


def run_as_rank(
    size: StepSize,
    rounds: int = 5,
    steps: int = 2,
    settings: Sequence[str] = (CHOSEN,),
    results: str = "",
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Measure as one of torchrun's processes, or alone for the counts; args as `run_weak_scaling`.

    Returns:
        Rows with `COLUMNS`, the same on every rank. `efficiency` is the time of one rank alone over that of the side,
        the median of the rounds' ratios; beside it the least and the largest of them.
    """
    _check(process_group.world_size(), rounds, steps, settings, device)
    process_group.start()
    alone = not process_group.running()
    if alone:  # DDP needs a group even of one
        backend = "nccl" if device == "cuda" else "gloo"
        distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    try:
        place = process_group.local_device() if device == "cuda" else torch.device("cpu")
        cpu_affinity.set_affinity(device=place)
        size = size.checked(place)
        rows = _measure(size, place, rounds, steps, settings)
        if process_group.is_first():
            print(format_table(rows, SHOWN, 2), flush=True)
            print(_told(rows), flush=True)
            if results:
                append_rows(Path(results), rows, COLUMNS)
                print(f"rows appended to {Path(results).resolve()}")
        return rows
    finally:
        distributed.destroy_process_group() if alone else process_group.finish()


def _measure(
    size: StepSize, device: torch.device, rounds: int, steps: int, settings: Sequence[str]
) -> list[dict[str, Any]]:
    rank, world = process_group.rank(), process_group.world_size()
    bare = ScaledStep(size, device, seed=rank)
    sides: dict[str, Side] = {ALONE: lambda number: _in_turn(bare, steps, number)}
    if world > 1:
        sides[APART] = lambda number: bare.seconds(steps)
    for name in settings:
        wrap = functools.partial(data_parallel, device=device, **SETTINGS[name])
        sides[name] = _all_together(ScaledStep(size, device, wrap, seed=rank), steps)
    seconds = _time_sides(sides, rounds)
    counts = {
        name: count_messages(
            ScaledStep(size, device, functools.partial(data_parallel, device=device, **SETTINGS[name]))
        )
        for name in settings
    }
    return [_row(size, name, seconds, counts.get(name), device, world, steps) for name in sides]


def _all_together(step: ScaledStep, steps: int) -> Side:
    return lambda number: step.seconds(steps)


def _in_turn(step: ScaledStep, steps: int, number: int) -> Seconds:
    """Another rank every round; the others wait, which costs them no processor time."""
    mine = number % process_group.world_size() == process_group.rank()
    return step.seconds(steps) if mine else (0.0, 0.0)


def _time_sides(sides: Mapping[str, Side], rounds: int) -> dict[str, list[Seconds]]:
    """Seconds per step of every side and round, that of the slowest rank; every other round in reverse order."""
    seconds: dict[str, list[Seconds]] = {name: [] for name in sides}
    for number in range(-1, rounds):  # the first round warms up, and lets DDP group the gradients
        for name in list(sides)[:: -1 if number % 2 else 1]:
            process_group.barrier()
            clock, processor = sides[name](max(number, 0))
            slowest = process_group.largest(clock), process_group.largest(processor)
            if number >= 0:
                seconds[name].append(slowest)
    return seconds


def _row(
    size: StepSize,
    side: str,
    seconds: Mapping[str, Sequence[Seconds]],
    counts: StepMessages | None,
    device: torch.device,
    world: int,
    steps: int,
) -> dict[str, Any]:
    values, processor = ([block[kind] for block in seconds[side]] for kind in (0, 1))
    ratios = [alone / value for (alone, _), value in zip(seconds[ALONE], values, strict=True)]
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    row |= {"bundle": size.bundle, "side": side, "ranks": 1 if side == ALONE else world, "steps": steps}
    row |= {"patch_size": "x".join(map(str, size.patch_size)), "batch_size": size.batch_size}
    row |= {"base_features": size.base_features, "precision": "bfloat16" if size.amp else "float32"}
    row |= {"min_ms": milliseconds(min(values)), "median_ms": milliseconds(median(values))}
    row |= {"max_ms": milliseconds(max(values)), "cpu_ms": milliseconds(median(processor))}
    row |= {"rounds": len(values), "efficiency": f"{median(ratios):.3f}"}
    row |= {"least_efficiency": f"{min(ratios):.3f}", "most_efficiency": f"{max(ratios):.3f}"}
    row |= counts.columns() if counts is not None else {}
    row |= {"threads": torch.get_num_threads(), "device": measured_device(str(device))}
    return row | {"versions": installed_versions(("torch", "monai"))} | circumstances()


def _told(rows: Sequence[Mapping[str, Any]]) -> str:
    counted = next(row for row in rows if row["messages"])
    size = int(counted["gradient_bytes"]) / 2**20
    told = (
        f"per step and rank: {counted['messages']} messages, {size:.1f} MiB of gradients in "
        f"{len(counted['buckets'].split())} of them, {counted['other_bytes']} bytes in the others"
    )
    if any(row["side"] == APART for row in rows):
        told += f"\n{ALONE}: one rank, the others idle; {APART}: all ranks, nothing sent; others: all ranks, by DDP"
    return told


def _check(ranks: int, rounds: int, steps: int, settings: Sequence[str], device: str) -> None:
    problems = Problems("benchmark scaling")
    for name, value in (("ranks", ranks), ("rounds", rounds), ("steps", steps)):
        if not isinstance(value, int) or value < 1:
            problems.add(f"--{name} {value}", "is no whole number from 1 on", "change it")
    unknown = [name for name in settings if name not in SETTINGS]
    if unknown or not settings:
        problems.add(f"--settings {','.join(settings)}", "unknown", f"of {', '.join(SETTINGS)}")
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        problems.add(f"--device {device}", "is neither cpu nor a GPU of this machine", "cpu, or cuda")
    problems.raise_if_any()
