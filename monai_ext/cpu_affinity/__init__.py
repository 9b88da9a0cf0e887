"""CPUs of a training process: near its GPU, and no other process of the machine on the same ones.

Importing it loads neither torch nor NVML.
"""

from monai_ext.cpu_affinity.modes import MODES, Shares, share_cpus
from monai_ext.cpu_affinity.pinning import describe, set_affinity
from monai_ext.cpu_affinity.topology import LogicalCpu, Topology, format_cpulist, parse_cpulist, read_topology

__all__ = [
    "MODES",
    "LogicalCpu",
    "Shares",
    "Topology",
    "describe",
    "format_cpulist",
    "parse_cpulist",
    "read_topology",
    "set_affinity",
    "share_cpus",
]
