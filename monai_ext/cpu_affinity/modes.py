"""Which CPUs each process of a machine gets: a pure function of the mode, the machine and the number of processes.

The modes are those of NVIDIA's nnU-Net of 2021. With G(i) the allowed CPUs local to the GPU of rank i, and its physical
list being one hardware thread of every core in G(i):

| mode | rank i gets |
| --- | --- |
| `socket` | all of G(i) |
| `single` | the first CPU of G(i), which ranks may share |
| `single_unique` | one thread of the first core of its physical list that no rank before it has |
| `socket_unique_interleaved` | of g ranks with one physical list the k-th: cores k, k+g, k+2g, ... with all threads |
| `socket_unique_continuous` | the same with cores [k m, (k+1) m), m = floor(cores/g); the remainder stays unused |
| `disabled` | all allowed CPUs |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from monai_ext.cpu_affinity.topology import Topology

MODES = (
    "socket",
    "single",
    "single_unique",
    "socket_unique_interleaved",
    "socket_unique_continuous",
    "disabled",
)


@dataclass(frozen=True)
class Shares:
    """CPUs of every rank, ascending, and what had to give if there were too few (empty if nothing)."""

    cpus: tuple[tuple[int, ...], ...]
    shortage: str = ""


def share_cpus(
    mode: str,
    topology: Topology,
    allowed: Iterable[int],
    local_world_size: int,
    localities: Sequence[Set[int] | None] | None = None,
) -> Shares:
    """Give every rank of this machine its CPUs.

    Every rank computes the same table, so nothing has to be agreed between processes. No share is empty or reaches
    beyond `allowed`. In the unique modes shares are disjoint if there are as many allowed CPUs as ranks, and no two
    ranks share a physical core if there are as many allowed cores as ranks: a GPU with fewer local cores than ranks
    then lends cores elsewhere, and a core local to differing sets of ranks goes to those who have least.

    Args:
        mode: one of `MODES`.
        topology: of the machine.
        allowed: CPUs that the processes may use, at least one.
        local_world_size: processes on this machine.
        localities: CPUs local to the GPU of each rank. None, or a set without an allowed CPU, makes a rank share the
            sockets with the others of its kind: neighbouring ranks on one socket, or several sockets for one rank where
            they outnumber the ranks.

    Raises:
        ValueError: no such mode, no allowed CPU, no rank, or `localities` of another length.
    """
    usable = frozenset(allowed)
    if mode not in MODES or not usable or local_world_size < 1:
        raise ValueError(f"mode {mode!r}, {len(usable)} CPUs and {local_world_size} ranks cannot be shared out")
    if localities is not None and len(localities) != local_world_size:
        raise ValueError(f"{len(localities)} localities for {local_world_size} ranks")
    if mode == "disabled":
        return Shares((tuple(sorted(usable)),) * local_world_size)
    homes = _homes(topology, usable, localities or [None] * local_world_size)
    if mode == "socket":
        return Shares(tuple(tuple(sorted(home)) for home in homes))
    if mode == "single":
        return Shares(tuple((min(home),) for home in homes))
    return _exclusive(mode, topology, usable, homes)


def _homes(topology: Topology, usable: frozenset[int], localities: Sequence[Set[int] | None]) -> list[frozenset[int]]:
    """Allowed CPUs near each rank, never empty."""
    homes = [usable & locality if locality else frozenset[int]() for locality in localities]
    lone = [rank for rank, home in enumerate(homes) if not home]
    for rank, home in zip(lone, _spread(topology, usable, len(lone)), strict=True):
        homes[rank] = home
    return homes


def _spread(topology: Topology, usable: frozenset[int], ranks: int) -> list[frozenset[int]]:
    """Sockets for ranks without a GPU: equal numbers of sockets, or ranks in proportion to the cores of a socket."""
    sockets = [frozenset(cpus) for cpus in topology.sockets(usable).values()]
    if ranks <= 1 or ranks < len(sockets):
        ends = [rank * len(sockets) // max(ranks, 1) for rank in range(ranks + 1)]
        return [frozenset[int]().union(*sockets[ends[rank] : ends[rank + 1]]) for rank in range(ranks)]
    # D'Hondt's rule: no socket gets more ranks than cores while another has a core to spare
    cores = [len(topology.cores(cpus)) for cpus in sockets]
    counts = [0] * len(sockets)
    for _ in range(ranks):
        counts[max(range(len(sockets)), key=lambda s: (cores[s] / (counts[s] + 1), -s))] += 1
    return [cpus for cpus, count in zip(sockets, counts, strict=True) for _ in range(count)]


def _exclusive(mode: str, topology: Topology, usable: frozenset[int], homes: list[frozenset[int]]) -> Shares:
    """The unique modes: whole cores if there are enough for all ranks, else hardware threads, else shared CPUs."""
    ranks = len(homes)
    cores = topology.cores(usable)
    if len(cores) >= ranks:
        units, wanted = list(cores), [list(topology.cores(home)) for home in homes]
        owned, strangers = _divide(mode, units, wanted)
        shortage = (
            f"{strangers} of {ranks} ranks got a core that is not local to them: fewer local cores than ranks"
            if strangers
            else ""
        )
        if mode == "single_unique":
            firsts = [set(cores[own[0]]) for own in owned]
            return Shares(tuple((min(t & home or t),) for t, home in zip(firsts, homes, strict=True)), shortage)
        return Shares(tuple(tuple(sorted(t for c in own for t in cores[c])) for own in owned), shortage)
    counted = f"{len(cores)} physical core{'' if len(cores) == 1 else 's'} for {ranks} ranks"
    # first threads of all cores before second ones, so that the first ranks get cores of their own
    threads = sorted(usable, key=lambda cpu: (cores[topology.cpu(cpu).core].index(cpu), cpu))
    if len(threads) >= ranks:
        owned, _ = _divide(mode, threads, [[cpu for cpu in threads if cpu in home] for home in homes])
        shortage = f"{counted}: ranks share cores, each has hardware threads of its own"
        return Shares(tuple(tuple(sorted(own)) for own in owned), shortage)
    shortage = f"{counted}: ranks share CPUs"
    if mode == "single_unique":
        return Shares(tuple((sorted(home)[rank % len(home)],) for rank, home in enumerate(homes)), shortage)
    # the kernel balances ranks over all of them; one CPU for two ranks would slow these two and all who wait for them
    return Shares(tuple(tuple(sorted(home)) for home in homes), shortage)


def _divide(mode: str, units: list[int], wanted: list[list[int]]) -> tuple[list[list[int]], int]:
    """Give every rank units (cores or threads) of its own, at least one.

    Args:
        mode: a unique mode.
        units: all of them in their order, at least as many as ranks.
        wanted: those local to each rank, in that order.

    Returns:
        units per rank, and how many ranks got one that is not local.
    """
    owner, strangers = _one_each(units, wanted)
    first = {rank: unit for unit, rank in owner.items()}
    if mode == "single_unique":
        return [[first[rank]] for rank in range(len(wanted))], strangers
    groups: dict[tuple[int, ...], list[int]] = {}
    for rank, local in enumerate(wanted):
        groups.setdefault(tuple(local), []).append(rank)
    pools = {group: {first[rank] for rank in members} for group, members in groups.items()}
    claims = {unit: [group for group in groups if unit in group] for unit in units if unit not in owner}
    for unit in sorted(claims, key=lambda u: len(claims[u])):  # those with one claimant are settled first
        if claims[unit]:
            poorest = min(claims[unit], key=lambda group: len(pools[group]) / len(groups[group]))
            pools[poorest].add(unit)
    owned: list[list[int]] = [[] for _ in wanted]
    for group, members in groups.items():
        pool = [unit for unit in units if unit in pools[group]]
        size = len(pool) // len(members)
        for k, rank in enumerate(members):
            interleaved = mode == "socket_unique_interleaved"
            owned[rank] = pool[k :: len(members)] if interleaved else pool[k * size : (k + 1) * size]
    return owned, strangers


def _one_each(units: list[int], wanted: list[list[int]]) -> tuple[dict[int, int], int]:
    """One unit for every rank: the first free one of its list.

    Where none is free, ranks before it move within their lists (augmenting paths of a bipartite matching); where that
    does not help, it takes the free unit that the fewest want.

    Returns:
        rank of each unit that is taken, and how many ranks got one that they did not want.
    """
    owner: dict[int, int] = {}

    def place(rank: int, seen: set[int]) -> bool:
        for unit in wanted[rank]:
            if unit not in owner:
                owner[unit] = rank
                return True
        for unit in wanted[rank]:
            if unit not in seen:
                seen.add(unit)
                if place(owner[unit], seen):
                    owner[unit] = rank
                    return True
        return False

    strangers = [rank for rank in range(len(wanted)) if not place(rank, set())]
    for rank in strangers:
        free = [unit for unit in units if unit not in owner]
        owner[min(free, key=lambda unit: sum(unit in local for local in wanted))] = rank
    return owner, len(strangers)
