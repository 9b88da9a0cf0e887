"""CPUs near a GPU, from stand-ins for NVML, torch and the kernel's files."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monai_ext.cpu_affinity.gpu_locality import gpu_localities, visible_gpus

MASKS = {"0": [0b1111, 1], "1": [0b110000, 1 << 63], "GPU-a": [0b1000, 0], "card of MIG-b": [0b10, 0]}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a library nor a variable of the machine that runs the tests."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """NVML with two GPUs; the list notes when it is started and stopped."""
    calls: list[str] = []

    def affinity(handle: str, words: int) -> list[int]:
        return MASKS[handle][:words]

    def no_mig(handle: str) -> Any:
        return f"card of {handle}"

    library = SimpleNamespace(
        nvmlInit=lambda: calls.append("init"),
        nvmlShutdown=lambda: calls.append("shutdown"),
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: str(number),
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlDeviceGetDeviceHandleFromMigDeviceHandle=no_mig,
        nvmlDeviceGetCpuAffinity=affinity,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return calls


@pytest.fixture
def torch_with_two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    def properties(number: int) -> SimpleNamespace:
        return SimpleNamespace(pci_domain_id=0, pci_bus_id=0x3B + number, pci_device_id=0)

    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 2, get_device_properties=properties)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    for bus, cpus in (("3b", "0-3,8-11\n"), ("3c", "4-7,12-15\n")):
        (tmp_path / f"0000:{bus}:00.0").mkdir()
        (tmp_path / f"0000:{bus}:00.0" / "local_cpulist").write_text(cpus)
    return tmp_path


def test_nothing_known(tmp_path: Path) -> None:
    assert gpu_localities([0, 1], 15, tmp_path) == (None, None)


def test_nvml(nvml: list[str]) -> None:
    assert gpu_localities([0, 1], 127) == (frozenset({0, 1, 2, 3, 64}), frozenset({4, 5, 127}))
    assert gpu_localities([1], 63) == (frozenset({4, 5}),)  # 64 CPUs fit into one word
    assert nvml == ["init", "shutdown"] * 2


def test_nvml_counts_gpus_that_cuda_hides(nvml: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, GPU-a,MIG-b")
    assert gpu_localities([0, 1, 2], 63) == (frozenset({4, 5}), frozenset({3}), frozenset({1}))


@pytest.mark.parametrize("visible", [None, "0", "", "0,-1,1"])
def test_more_ranks_than_visible_gpus(nvml: list[str], monkeypatch: pytest.MonkeyPatch, visible: str | None) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    ranks = [0, 1, 2] if visible is None else [0, 1]
    assert gpu_localities(ranks, 63) == (None,) * len(ranks)


def test_entries_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert visible_gpus() is None
    for value, entries in (("", []), ("3, 1", ["3", "1"]), ("2,-1,0", ["2"]), ("-1", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert visible_gpus() == entries


def test_kernel_files(torch_with_two_gpus: Path) -> None:
    first, second = frozenset({0, 1, 2, 3, 8, 9, 10, 11}), frozenset({4, 5, 6, 7, 12, 13, 14, 15})
    assert gpu_localities([0, 1], 15, torch_with_two_gpus) == (first, second)
    assert gpu_localities([1], 15, torch_with_two_gpus) == (second,)
    assert gpu_localities([0, 1, 2], 15, torch_with_two_gpus) == (None,) * 3
    (torch_with_two_gpus / "0000:3b:00.0" / "local_cpulist").write_text("\n")
    assert gpu_localities([0, 1], 15, torch_with_two_gpus) == (None, second)


@pytest.mark.parametrize("broken", ["nvmlInit", "nvmlDeviceGetCpuAffinity", "nvmlDeviceGetHandleByIndex"])
def test_kernel_files_where_nvml_fails(
    nvml: list[str], torch_with_two_gpus: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Driver Not Loaded")

    monkeypatch.setattr(sys.modules["pynvml"], broken, fail)
    assert gpu_localities([1], 15, torch_with_two_gpus) == (frozenset({4, 5, 6, 7, 12, 13, 14, 15}),)
    assert nvml.count("init") == nvml.count("shutdown")


@pytest.mark.gpu
def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    from monai_ext.cpu_affinity.gpu_locality import _from_kernel

    (cpus,) = gpu_localities([0], 4095)
    assert cpus is None or max(cpus) < 4096
    assert len(_from_kernel([0], Path("/sys/bus/pci/devices"))) == 1  # torch names the PCI address
