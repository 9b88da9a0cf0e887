"""CPUs of processes that train together: every process of a machine has its own, whatever other machines do."""

from __future__ import annotations

import os

import pytest

from monai_ext.cpu_affinity import set_affinity
from rank_processes import on_ranks

CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else 0


def _pinned(per_machine: int) -> tuple[tuple[int, ...], list[int]]:
    """CPUs that this rank was given, and those that a process which it starts may use."""
    rank = int(os.environ["RANK"])
    os.environ |= {"LOCAL_RANK": str(rank % per_machine), "LOCAL_WORLD_SIZE": str(per_machine)}
    got = set_affinity("socket_unique_interleaved", device="cpu")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, bytes(sorted(os.sched_getaffinity(0))))
        os._exit(0)
    os.waitpid(child, 0)
    return got, list(os.read(reader, 4096))


@pytest.mark.skipif(not 2 <= CPUS < 256, reason="needs two CPUs and a system with CPU affinity")
def test_ranks_of_a_machine_have_disjoint_cpus() -> None:
    allowed = os.sched_getaffinity(0)
    first, second = on_ranks(_pinned, 2, 2)
    assert set(first[0]).isdisjoint(second[0])
    assert first[0]
    assert second[0]
    assert {*first[0], *second[0]} <= allowed
    for got, inherited in (first, second):
        assert list(got) == inherited
    assert os.sched_getaffinity(0) == allowed


@pytest.mark.skipif(not 2 <= CPUS < 256, reason="needs two CPUs and a system with CPU affinity")
def test_ranks_of_other_machines_do_not_count() -> None:
    # two machines of two processes: rank 2 is the first of the second machine, and gets what rank 0 has on its own
    shares = [got for got, _ in on_ranks(_pinned, 4, 2)]
    assert shares[:2] == shares[2:]
    assert set(shares[0]).isdisjoint(shares[1])
