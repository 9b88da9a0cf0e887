"""Cores, sockets and NUMA nodes of the machine, read from the kernel's files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

SYSTEM_ROOT = Path("/sys/devices/system")


def parse_cpulist(text: str) -> frozenset[int]:
    """CPUs of a kernel list such as `0-3,8,10-11`; blank text is the empty set.

    A range may have a stride, `0-31:1/2` being one CPU of every two.

    Raises:
        ValueError: the text is no such list.
    """
    cpus: set[int] = set()
    for part in text.strip().split(","):
        if not part.strip():
            continue
        found = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+)/(\d+))?)?", part.strip())
        if found is None:
            raise ValueError(f"{text!r} is no list of CPUs such as 0-3,8")
        first, last, used, group = (int(number) if number else None for number in found.groups())
        assert first is not None
        span = range(first, (first if last is None else last) + 1)
        cpus.update(span if used is None or not group else (cpu for cpu in span if (cpu - first) % group < used))
    return frozenset(cpus)


def format_cpulist(cpus: Iterable[int]) -> str:
    """Compact form of a set of CPUs, `0-3,8`; the inverse of `parse_cpulist`."""
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


@dataclass(frozen=True)
class LogicalCpu:
    """One hardware thread."""

    number: int
    core: int  # lowest number among the hardware threads of its physical core
    socket: int = 0
    node: int = 0  # NUMA


@dataclass(frozen=True)
class Topology:
    """Online logical CPUs of a machine. A CPU that it does not list is taken for a core of its own on socket 0."""

    cpus: tuple[LogicalCpu, ...]

    @cached_property
    def _by_number(self) -> dict[int, LogicalCpu]:
        return {cpu.number: cpu for cpu in self.cpus}

    def cpu(self, number: int) -> LogicalCpu:
        return self._by_number.get(number, LogicalCpu(number, number))

    def siblings(self, number: int) -> tuple[int, ...]:
        """Hardware threads of the physical core of a CPU, itself included, ascending."""
        core = self.cpu(number).core
        return tuple(sorted({c.number for c in self.cpus if c.core == core} | {number}))

    def cores(self, cpus: Iterable[int]) -> dict[int, tuple[int, ...]]:
        """Physical cores of `cpus`, each with those of its threads that are among them.

        Both are ascending, cores by the lowest of these threads: numbering differs between machines, the two threads of
        a core being neighbours (0 and 1) on some and half the machine apart (0 and 32) on others.
        """
        cores: dict[int, tuple[int, ...]] = {}
        for cpu in sorted(set(cpus)):
            core = self.cpu(cpu).core
            cores[core] = (*cores.get(core, ()), cpu)
        return cores

    def sockets(self, cpus: Iterable[int]) -> dict[int, tuple[int, ...]]:
        """Sockets of `cpus` in ascending order, each with those of its CPUs that are among them, ascending."""
        sockets: dict[int, tuple[int, ...]] = {}
        for cpu in sorted(set(cpus), key=lambda number: (self.cpu(number).socket, number)):
            socket = self.cpu(cpu).socket
            sockets[socket] = (*sockets.get(socket, ()), cpu)
        return sockets


def read_topology(root: str | Path = SYSTEM_ROOT) -> Topology:
    """Read `cpu/online`, `cpu/cpuN/topology/*` and `node/nodeN/cpulist` under `root`.

    Whatever is missing or unreadable, as on other systems and in some containers, is replaced: CPUs are the `cpuN`
    folders, each CPU is a core of its own, all are on one socket and one node.
    """
    folder = Path(root) / "cpu"
    online = _cpulist(folder / "online") or _numbered(folder, "cpu")
    nodes: dict[int, int] = {}
    for node in sorted(_numbered(Path(root) / "node", "node")):
        nodes.update(dict.fromkeys(_cpulist(Path(root) / "node" / f"node{node}" / "cpulist"), node))
    cpus = []
    for number in sorted(online):
        files = folder / f"cpu{number}" / "topology"
        # the second name is the older one
        threads = _cpulist(files / "core_cpus_list") or _cpulist(files / "thread_siblings_list")
        core = min(threads | {number})
        cpus.append(LogicalCpu(number, core, _socket(files / "physical_package_id"), nodes.get(number, 0)))
    return Topology(tuple(cpus))


def _cpulist(path: Path) -> frozenset[int]:
    try:
        return parse_cpulist(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return frozenset()


def _numbered(folder: Path, name: str) -> frozenset[int]:
    """Numbers N of the entries `nameN` of a folder."""
    try:
        entries = [entry.name for entry in folder.iterdir()]
    except OSError:
        return frozenset()
    return frozenset(int(entry[len(name) :]) for entry in entries if re.fullmatch(rf"{name}\d+", entry))


def _socket(path: Path) -> int:
    try:
        return max(0, int(path.read_text(encoding="ascii")))  # -1 where the firmware does not say
    except (OSError, ValueError):
        return 0
