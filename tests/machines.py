"""Machines for tests of CPU affinity: topologies made up, and the kernel files that describe them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from monai_ext.cpu_affinity import LogicalCpu, Topology, format_cpulist


def machine(cores: Sequence[Sequence[int]], numbering: str = "apart", nodes_per_socket: int = 1) -> Topology:
    """Topology with `cores[socket]` the numbers of hardware threads of its cores.

    Args:
        numbering: `apart` counts the first threads of all cores, then the second ones; `adjacent` counts core by core;
            `alternating` is `apart` with neighbouring numbers on different sockets.
    """
    places = [(socket, k, threads) for socket, row in enumerate(cores) for k, threads in enumerate(row)]
    if numbering == "alternating":
        places.sort(key=lambda place: (place[1], place[0]))
    slots = [(t, index) for index, place in enumerate(places) for t in range(place[2])]
    if numbering != "adjacent":
        slots.sort()
    numbers = {(index, t): number for number, (t, index) in enumerate(slots)}
    cpus = []
    for (index, _), number in numbers.items():
        socket, k, _ = places[index]
        node = socket * nodes_per_socket + k * nodes_per_socket // len(cores[socket])
        cpus.append(LogicalCpu(number, numbers[index, 0], socket, node))
    return Topology(tuple(sorted(cpus, key=lambda cpu: cpu.number)))


def of_socket(topology: Topology, socket: int) -> frozenset[int]:
    return frozenset(cpu.number for cpu in topology.cpus if cpu.socket == socket)


def all_cpus(topology: Topology) -> frozenset[int]:
    return frozenset(cpu.number for cpu in topology.cpus)


def write_kernel_files(
    root: Path, topology: Topology, siblings_file: str = "core_cpus_list", offline: Iterable[int] = ()
) -> Path:
    """Write the files that a kernel shows under `/sys/devices/system`; offline CPUs keep a bare folder, as there."""
    online = all_cpus(topology) - set(offline)
    (root / "cpu" / "cpufreq").mkdir(parents=True)
    (root / "cpu" / "online").write_text(format_cpulist(online) + "\n")
    for cpu in topology.cpus:
        folder = root / "cpu" / f"cpu{cpu.number}"
        folder.mkdir()
        if cpu.number not in online:
            continue
        (folder / "topology").mkdir()
        siblings = online & set(topology.siblings(cpu.number))
        (folder / "topology" / siblings_file).write_text(format_cpulist(siblings) + "\n")
        (folder / "topology" / "physical_package_id").write_text(f"{cpu.socket}\n")
    for node in {cpu.node for cpu in topology.cpus}:
        folder = root / "node" / f"node{node}"
        folder.mkdir(parents=True)
        local = [cpu.number for cpu in topology.cpus if cpu.node == node and cpu.number in online]
        (folder / "cpulist").write_text(format_cpulist(local) + "\n")
    return root
