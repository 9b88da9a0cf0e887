"""Reading cores, sockets and nodes from the kernel's files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines import machine, write_kernel_files
from monai_ext.cpu_affinity import LogicalCpu, format_cpulist, parse_cpulist, read_topology


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0-3,8,10-11\n", {0, 1, 2, 3, 8, 10, 11}),
        ("5", {5}),
        ("\n", set()),
        ("0-1, 4", {0, 1, 4}),
        ("0-7:1/4", {0, 4}),
        ("1-8:2/4", {1, 2, 5, 6}),
    ],
)
def test_lists_of_the_kernel(text: str, cpus: set[int]) -> None:
    assert parse_cpulist(text) == cpus


@pytest.mark.parametrize("text", ["a", "1-", "-1", "0x3", "1 2", "3;4"])
def test_other_text_is_no_list(text: str) -> None:
    with pytest.raises(ValueError, match="no list of CPUs"):
        parse_cpulist(text)


@given(st.frozensets(st.integers(0, 300)))
def test_writing_a_list_inverts_reading(cpus: frozenset[int]) -> None:
    assert parse_cpulist(format_cpulist(cpus)) == cpus


def test_compact_form() -> None:
    assert format_cpulist([11, 0, 1, 2, 3, 8, 10]) == "0-3,8,10-11"
    assert format_cpulist([]) == ""


@pytest.mark.parametrize("numbering", ["apart", "adjacent", "alternating"])
@pytest.mark.parametrize("siblings_file", ["core_cpus_list", "thread_siblings_list"])
@pytest.mark.parametrize(
    ("cores", "nodes_per_socket"),
    [([[2] * 4, [2] * 4], 2), ([[1] * 3], 1), ([[2, 2, 1, 1, 1]], 1), ([[8, 8], [8, 8]], 1)],
    ids=["two sockets, four nodes", "one thread a core", "hybrid", "eight threads a core"],
)
def test_files_are_read(
    tmp_path: Path, cores: list[list[int]], nodes_per_socket: int, siblings_file: str, numbering: str
) -> None:
    topology = machine(cores, numbering, nodes_per_socket)
    assert read_topology(write_kernel_files(tmp_path, topology, siblings_file)) == topology


def test_numberings_by_hand(tmp_path: Path) -> None:
    apart = read_topology(write_kernel_files(tmp_path / "apart", machine([[2, 2], [2, 2]])))
    assert [(cpu.core, cpu.socket) for cpu in apart.cpus] == [(0, 0), (1, 0), (2, 1), (3, 1)] * 2
    adjacent = read_topology(write_kernel_files(tmp_path / "adjacent", machine([[2, 2], [2, 2]], "adjacent")))
    assert [cpu.core for cpu in adjacent.cpus] == [0, 0, 2, 2, 4, 4, 6, 6]
    assert adjacent.siblings(5) == (4, 5)
    assert adjacent.cores([3, 4, 5]) == {2: (3,), 4: (4, 5)}
    assert adjacent.sockets([5, 0, 3]) == {0: (0, 3), 1: (5,)}


def test_offline_cpus_are_left_out(tmp_path: Path) -> None:
    topology = read_topology(write_kernel_files(tmp_path, machine([[2, 2]]), offline=[0, 3]))
    assert topology.cpus == (LogicalCpu(1, 1), LogicalCpu(2, 2))  # their siblings are asleep


def test_container_that_shows_fewer_cpus_but_the_cores_of_its_host(tmp_path: Path) -> None:
    write_kernel_files(tmp_path, machine([[2, 2]]))
    (tmp_path / "cpu" / "online").write_text("1-3\n")
    assert read_topology(tmp_path).cores([1, 2, 3]) == {1: (1, 3), 0: (2,)}


def test_missing_files_make_every_cpu_a_core_on_one_socket(tmp_path: Path) -> None:
    for name in ("cpu0", "cpu1", "cpu10", "cpufreq", "cpuidle"):
        (tmp_path / "cpu" / name).mkdir(parents=True)
    topology = read_topology(tmp_path)
    assert topology.cpus == tuple(LogicalCpu(number, number) for number in (0, 1, 10))


def test_nothing_at_all(tmp_path: Path) -> None:
    topology = read_topology(tmp_path / "absent")
    assert topology.cpus == ()
    assert topology.cpu(7) == LogicalCpu(7, 7)
    assert topology.siblings(7) == (7,)


def test_unreadable_files_count_as_missing(tmp_path: Path) -> None:
    write_kernel_files(tmp_path, machine([[2], [2]]))
    (tmp_path / "cpu" / "cpu0" / "topology" / "core_cpus_list").write_text("nonsense")
    (tmp_path / "cpu" / "cpu1" / "topology" / "physical_package_id").write_text("-1\n")
    topology = read_topology(tmp_path)
    assert topology.cpu(0) == LogicalCpu(0, 0, 0, 0)
    assert topology.cpu(1).socket == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads the files of a Linux kernel")
def test_this_machine() -> None:
    topology = read_topology()
    numbers = {cpu.number for cpu in topology.cpus}
    assert os.sched_getaffinity(0) <= numbers
    assert sorted(cpu for threads in topology.cores(numbers).values() for cpu in threads) == sorted(numbers)
