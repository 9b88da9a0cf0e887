"""CPUs on the socket or NUMA node of a GPU: asked of NVML, else read from the kernel's PCI files."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai_ext.cpu_affinity.topology import parse_cpulist

logger = logging.getLogger(__name__)

PCI_ROOT = Path("/sys/bus/pci/devices")
Localities = tuple[frozenset[int] | None, ...]


def gpu_localities(gpus: Sequence[int], highest_cpu: int, pci_root: str | Path = PCI_ROOT) -> Localities:
    """CPUs local to each GPU, None for a GPU of which they are not known.

    All are None if fewer GPUs are visible than asked for, as where each process sees only its own: processes that know
    different things about each other would take the same CPUs.

    Args:
        gpus: numbers as this process sees them (0 is `cuda:0`).
        highest_cpu: highest CPU number of the machine.
        pci_root: folder with one folder per PCI device.
    """

    def from_nvml() -> Localities:
        return _from_nvml(gpus, highest_cpu)

    def from_kernel() -> Localities:
        return _from_kernel(gpus, Path(pci_root))

    sources: list[Callable[[], Localities]] = [from_nvml, from_kernel]
    for source in sources:
        try:
            found = source()
        except Exception as error:  # no fault of a driver or its bindings is worth ending a training
            logger.debug("locality of GPUs: %s: %s", source.__name__, error)
            continue
        if any(found):
            return found
    return (None,) * len(gpus)


def visible_gpus() -> list[str] | None:
    """Entries of `CUDA_VISIBLE_DEVICES`, None if it is not set; CUDA ignores what follows an invalid number."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    entries: list[str] = []
    for entry in value.split(","):
        name = entry.strip()
        if not name or name.startswith("-"):
            break
        entries.append(name)
    return entries


def _from_nvml(gpus: Sequence[int], highest_cpu: int) -> Localities:
    import pynvml

    entries = visible_gpus()
    if entries is not None and len(entries) <= max(gpus):
        return ()  # before any driver is woken up
    pynvml.nvmlInit()
    try:
        if entries is None:
            entries = [str(number) for number in range(pynvml.nvmlDeviceGetCount())]
        if len(entries) <= max(gpus):
            return ()
        words = highest_cpu // 64 + 1
        return tuple(_cpus_of_mask(pynvml, _nvml_handle(pynvml, entries[gpu]), words) for gpu in gpus)
    finally:
        pynvml.nvmlShutdown()


def _nvml_handle(pynvml: Any, name: str) -> Any:
    """NVML's device for an entry of `CUDA_VISIBLE_DEVICES`: a number, `GPU-...` or `MIG-...`."""
    if name.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(name))
    handle = pynvml.nvmlDeviceGetHandleByUUID(name)
    return pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle) if name.startswith("MIG-") else handle


def _cpus_of_mask(pynvml: Any, handle: Any, words: int) -> frozenset[int] | None:
    mask = pynvml.nvmlDeviceGetCpuAffinity(handle, words)  # of 64 bits each
    return frozenset(64 * k + bit for k, word in enumerate(mask) for bit in range(64) if word >> bit & 1) or None


def _from_kernel(gpus: Sequence[int], pci_root: Path) -> Localities:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or torch.cuda.device_count() <= max(gpus):
        return ()
    return tuple(_local_cpulist(pci_root / _pci_address(torch, gpu)) for gpu in gpus)


def _pci_address(torch: Any, gpu: int) -> str:
    known = torch.cuda.get_device_properties(gpu)
    return f"{known.pci_domain_id:04x}:{known.pci_bus_id:02x}:{known.pci_device_id:02x}.0"


def _local_cpulist(device: Path) -> frozenset[int] | None:
    try:
        return parse_cpulist((device / "local_cpulist").read_text(encoding="ascii")) or None
    except OSError:
        return None
