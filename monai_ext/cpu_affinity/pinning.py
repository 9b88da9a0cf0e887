"""Applies an affinity mode to this process."""

from __future__ import annotations

import logging
import operator
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from monai_ext.cpu_affinity.gpu_locality import gpu_localities
from monai_ext.cpu_affinity.modes import MODES, share_cpus
from monai_ext.cpu_affinity.topology import SYSTEM_ROOT, Topology, format_cpulist, read_topology
from monai_ext.errors import InputError

logger = logging.getLogger(__name__)

TASKS = Path("/proc/self/task")


@dataclass
class _Past:
    """What this process was before the last call and what the call made of it, so that calls do not add up.

    Where the present value is no longer the applied one, somebody else changed it, and that is the new start.
    """

    cpus_before: frozenset[int] = frozenset()
    cpus_applied: frozenset[int] = frozenset()
    threads_before: int = 0
    threads_applied: int = 0


_past = _Past()


def set_affinity(
    mode: str = "socket_unique_interleaved",
    local_rank: int | None = None,
    local_world_size: int | None = None,
    device: object = None,
) -> tuple[int, ...]:
    """Restrict this process, its threads and the processes it starts from now on to its share of the CPUs.

    Only CPUs that the process may use already (cpuset, taskset) are shared out. Loader workers inherit the share;
    processes that a fork server started before do not. If torch is loaded, its threads are reduced to the physical
    cores of the share, unless `OMP_NUM_THREADS` is set. A second call starts from the CPUs that the process had before
    the first one; `disabled` gives these back. Where the system refuses, a warning is logged and nothing changes.

    All ranks must have been started with the same CPUs, as torchrun does. Where a scheduler has already given each of
    them CPUs of its own, `disabled` is right.

    Args:
        mode: one of `MODES`.
        local_rank: number of this process on this machine; from `LOCAL_RANK`, else 0.
        local_world_size: processes on this machine; from `LOCAL_WORLD_SIZE`, else 1.
        device: of the training, such as `cuda:0`; the CPU has no place, so that a share is not tied to a GPU that is
            not used. None looks for GPUs.

    Returns:
        CPUs of this process, ascending; empty on a system without affinity (macOS, Windows).

    Raises:
        InputError: no such mode, or rank and size do not fit together.
    """
    if mode not in MODES:
        raise InputError(
            f"--affinity is {mode!r}, must be one of {', '.join(MODES)}. Cure: choose one; disabled sets nothing"
        )
    rank, size = _rank_and_size(local_rank, local_world_size)
    if not hasattr(os, "sched_setaffinity"):
        logger.info("CPU affinity %s: this system has none, nothing is set", mode)
        return ()
    present = frozenset(os.sched_getaffinity(0))
    allowed = _past.cpus_before if present == _past.cpus_applied else present
    topology = read_topology(SYSTEM_ROOT)
    localities = None
    if mode != "disabled" and not str(device).startswith(("cpu", "mps")):
        highest = max(allowed | {cpu.number for cpu in topology.cpus})
        localities = gpu_localities(_gpus_of_ranks(size, device), highest)
    shares = share_cpus(mode, topology, allowed, size, localities)
    if shares.shortage and rank == 0:
        logger.warning("CPU affinity %s: %s", mode, shares.shortage)
    threads = _torch_threads()  # asked first: torch may count the CPUs only now
    got = _apply(frozenset(shares.cpus[rank]), present, mode)
    _past.cpus_before, _past.cpus_applied = allowed, got
    _limit_torch_threads(threads, len(topology.cores(got)) if got < allowed else None)
    logger.info("%s", describe(mode, rank, size, got, topology))
    return tuple(sorted(got))


def describe(mode: str, local_rank: int, local_world_size: int, cpus: Iterable[int], topology: Topology) -> str:
    """One line for the log: `CPU affinity socket, rank 0 of 2: CPUs 0-3,8-11 (4 cores, socket 0, NUMA node 0)`."""
    known = [topology.cpu(number) for number in sorted(set(cpus))]
    cores = len({cpu.core for cpu in known})
    parts = [f"{cores} core{'' if cores == 1 else 's'}"]
    for name, numbers in (("socket", {cpu.socket for cpu in known}), ("NUMA node", {cpu.node for cpu in known})):
        parts.append(f"{name}{'' if len(numbers) == 1 else 's'} {format_cpulist(numbers)}")
    listed = format_cpulist(cpu.number for cpu in known)
    return f"CPU affinity {mode}, rank {local_rank} of {local_world_size}: CPUs {listed} ({', '.join(parts)})"


def _rank_and_size(local_rank: int | None, local_world_size: int | None) -> tuple[int, int]:
    """Both as integers: the launcher's variables are text, and text never equals a rank."""
    # WORLD_SIZE counts other machines too; it serves where a launcher gives a local rank and nothing better
    names = ["LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"]
    given = {name: os.environ.get(name, "").strip() for name in names}
    try:
        known = {name: int(text) for name, text in given.items() if text}
    except ValueError:
        raise _unfit(given) from None
    rank = known.get("LOCAL_RANK", 0) if local_rank is None else operator.index(local_rank)
    if local_world_size is not None:
        size = operator.index(local_world_size)
    else:
        size = known.get("LOCAL_WORLD_SIZE", known.get("WORLD_SIZE", 1) if given["LOCAL_RANK"] else 1)
    if not 0 <= rank < size:
        raise _unfit(given | {"rank": str(rank), "processes": str(size)})
    return rank, size


def _unfit(given: dict[str, str]) -> InputError:
    listed = ", ".join(f"{name} {text!r}" for name, text in given.items() if text)
    return InputError(f"local rank and number of processes do not fit together: {listed}. Cure: start with torchrun")


def _gpus_of_ranks(local_world_size: int, device: object) -> list[int]:
    """Rank i trains on GPU i; a process that is alone may name any."""
    number = str(device).partition(":")[2]
    return [int(number)] if local_world_size == 1 and number.isdigit() else list(range(local_world_size))


def _apply(cpus: frozenset[int], present: frozenset[int], mode: str) -> frozenset[int]:
    """Move this thread and all others of the process that are where it is; return what the system made of it.

    The system moves one thread at a time, and some run already (those of linear algebra libraries, for example).
    Threads elsewhere were put there by somebody on purpose.
    """
    if cpus != present:
        try:
            os.sched_setaffinity(0, cpus)
        except OSError as error:
            logger.warning("CPU affinity %s: %s, CPUs stay %s", mode, error, format_cpulist(present))
            return present
        for thread in _threads():
            try:
                if frozenset(os.sched_getaffinity(thread)) == present:
                    os.sched_setaffinity(thread, cpus)
            except OSError:
                continue  # it has ended
    return frozenset(os.sched_getaffinity(0))


def _threads() -> list[int]:
    try:
        return [int(task.name) for task in TASKS.iterdir()]
    except OSError:
        return []


def _torch_threads() -> int | None:
    """Threads of torch's operators, None if torch is not loaded or the user has fixed them."""
    torch = sys.modules.get("torch")
    return None if torch is None or os.environ.get("OMP_NUM_THREADS", "").strip() else int(torch.get_num_threads())


def _limit_torch_threads(present: int | None, cores: int | None) -> None:
    """At most one thread per core of the share, as more would take turns; None gives back what an earlier call took."""
    if present is None:
        return
    before = _past.threads_before if present == _past.threads_applied else present
    target = before if cores is None else min(before, cores)
    if target != present:
        sys.modules["torch"].set_num_threads(target)
    _past.threads_before, _past.threads_applied = before, target
