"""Shares of CPUs: the definitions by hand, and what must hold on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machines import all_cpus, machine, of_socket
from monai_ext.cpu_affinity import MODES, Topology, parse_cpulist, share_cpus

UNIQUE = ("single_unique", "socket_unique_interleaved", "socket_unique_continuous")
# cores 0-3 on socket 0 and 4-7 on socket 1; the second thread of core c is CPU c + 8
TWO_SOCKETS = machine([[2] * 4, [2] * 4])
FOUR_GPUS = [of_socket(TWO_SOCKETS, 0)] * 2 + [of_socket(TWO_SOCKETS, 1)] * 2


def lists(
    mode: str,
    topology: Topology,
    ranks: int,
    localities: Sequence[frozenset[int] | None] | None = None,
    allowed: str | None = None,
) -> list[tuple[int, ...]]:
    usable = all_cpus(topology) if allowed is None else parse_cpulist(allowed)
    return list(share_cpus(mode, topology, usable, ranks, localities).cpus)


def expected(*shares: str) -> list[tuple[int, ...]]:
    return [tuple(sorted(parse_cpulist(share))) for share in shares]


@pytest.mark.parametrize(
    ("mode", "shares"),
    [
        ("socket", ["0-3,8-11", "0-3,8-11", "4-7,12-15", "4-7,12-15"]),
        ("single", ["0", "0", "4", "4"]),
        ("single_unique", ["0", "1", "4", "5"]),
        ("socket_unique_interleaved", ["0,2,8,10", "1,3,9,11", "4,6,12,14", "5,7,13,15"]),
        ("socket_unique_continuous", ["0-1,8-9", "2-3,10-11", "4-5,12-13", "6-7,14-15"]),
        ("disabled", ["0-15"] * 4),
    ],
)
def test_four_gpus_on_two_sockets(mode: str, shares: list[str]) -> None:
    assert lists(mode, TWO_SOCKETS, 4, FOUR_GPUS) == expected(*shares)
    # ranks without a GPU are spread in the same way
    assert lists(mode, TWO_SOCKETS, 4) == expected(*shares)
    assert share_cpus(mode, TWO_SOCKETS, range(16), 4).shortage == ""


@pytest.mark.parametrize(
    ("mode", "shares"),
    [
        ("socket_unique_interleaved", ["0,3,8,11", "1,9", "2,10"]),
        ("socket_unique_continuous", ["0,8", "1,9", "2,10"]),  # floor(4/3) = 1: core 3 stays unused
        ("single_unique", ["0", "1", "2"]),
    ],
)
def test_cores_that_do_not_divide(mode: str, shares: list[str]) -> None:
    assert lists(mode, TWO_SOCKETS, 3, FOUR_GPUS[:1] * 3) == expected(*shares)


def test_seven_cores_for_two() -> None:
    odd = machine([[1] * 7])
    assert lists("socket_unique_interleaved", odd, 2) == expected("0,2,4,6", "1,3,5")
    assert lists("socket_unique_continuous", odd, 2) == expected("0-2", "3-5")


def test_gpus_in_any_order_of_sockets() -> None:
    crossed = [FOUR_GPUS[k] for k in (2, 0, 3, 1)]
    assert lists("single_unique", TWO_SOCKETS, 4, crossed) == expected("4", "0", "5", "1")
    assert lists("socket_unique_continuous", TWO_SOCKETS, 4, crossed) == expected(
        "4-5,12-13", "0-1,8-9", "6-7,14-15", "2-3,10-11"
    )


def test_threads_of_a_core_with_neighbouring_numbers() -> None:
    adjacent = machine([[2] * 4], "adjacent")
    assert lists("socket_unique_interleaved", adjacent, 2) == expected("0-1,4-5", "2-3,6-7")
    assert lists("socket_unique_continuous", adjacent, 2) == expected("0-3", "4-7")
    assert lists("single_unique", adjacent, 3) == expected("0", "2", "4")


def test_sockets_that_alternate() -> None:
    alternating = machine([[1] * 3, [1] * 3], "alternating")  # even numbers on socket 0
    assert lists("socket", alternating, 2) == expected("0,2,4", "1,3,5")


def test_fast_and_slow_cores() -> None:
    hybrid = machine([[2, 2, 1, 1, 1]], "adjacent")  # threads 0-1 and 2-3, then cores 4, 5, 6
    assert lists("socket_unique_interleaved", hybrid, 2) == expected("0-1,4,6", "2-3,5")


def test_only_allowed_cpus_count() -> None:
    # core 0 only by its second thread, core 1 whole, cores 2 and 3 not at all, core 6 only by its first
    assert lists("socket_unique_interleaved", TWO_SOCKETS, 2, FOUR_GPUS[:2], "1,6,8-9") == expected("1,9", "8")
    assert lists("single", TWO_SOCKETS, 1, FOUR_GPUS[:1], "8-15") == expected("8")
    assert lists("single_unique", TWO_SOCKETS, 2, FOUR_GPUS[:2], "8-15") == expected("8", "9")


def test_one_rank_keeps_its_socket_or_without_a_gpu_everything() -> None:
    for mode in ("socket", "socket_unique_interleaved", "socket_unique_continuous"):
        assert lists(mode, TWO_SOCKETS, 1, FOUR_GPUS[2:3]) == expected("4-7,12-15")
        assert lists(mode, TWO_SOCKETS, 1) == expected("0-15")
        assert lists(mode, TWO_SOCKETS, 1, [None], "0,5,9") == expected("0,5,9")


def test_ranks_without_gpu_are_balanced_over_sockets() -> None:
    assert lists("socket", TWO_SOCKETS, 3) == expected("0-3,8-11", "0-3,8-11", "4-7,12-15")
    four_sockets = machine([[1]] * 4)
    assert lists("socket", four_sockets, 2) == expected("0-1", "2-3")
    assert lists("socket", four_sockets, 3) == expected("0", "1", "2-3")
    # 4 cores on one socket and 1 on the other: by cores, so that nobody waits for a crowded one
    assert lists("socket_unique_interleaved", TWO_SOCKETS, 4, None, "0-4") == expected("0", "1", "2", "3")
    assert lists("socket_unique_interleaved", TWO_SOCKETS, 5, None, "0-4") == expected("0", "1", "2", "3", "4")


def test_gpu_whose_cpus_are_not_allowed_counts_as_none() -> None:
    assert lists("socket_unique_interleaved", TWO_SOCKETS, 2, [FOUR_GPUS[2], FOUR_GPUS[3]], "0-3") == expected(
        "0,2", "1,3"
    )


def test_partly_overlapping_localities_are_divided() -> None:
    flat = machine([[1] * 6])
    overlapping = [frozenset(range(4)), frozenset(range(2, 6))]
    # one each: 0 and 2; then 1 to rank 0, 4 and 5 to rank 1, and 3, which both want, to rank 0, which has fewer
    assert lists("socket_unique_continuous", flat, 2, overlapping) == expected("0-1,3", "2,4-5")
    # one each: 0 and 3; then 1 and 2 to rank 0, 5 to rank 1, and 4, which both want, to rank 1, which has fewer
    overlapping = [frozenset(range(5)), frozenset(range(3, 6))]
    assert lists("socket_unique_continuous", flat, 2, overlapping) == expected("0-2", "3-5")


def test_a_rank_moves_for_one_with_less_choice() -> None:
    flat = machine([[1] * 4])
    assert lists("single_unique", flat, 2, [frozenset({0, 1}), frozenset({0})]) == expected("1", "0")


def test_gpus_with_too_few_local_cores_lend_others() -> None:
    flat = machine([[1] * 4])
    shares = share_cpus("socket_unique_interleaved", flat, range(4), 3, [frozenset({0})] * 2 + [frozenset({1, 2})])
    assert list(shares.cpus) == expected("0", "3", "1-2")
    assert shares.shortage == "1 of 3 ranks got a core that is not local to them: fewer local cores than ranks"


@pytest.mark.parametrize(
    ("mode", "shares"),
    [
        ("socket_unique_interleaved", ["0,3", "1", "2"]),
        ("socket_unique_continuous", ["0", "1", "2"]),
        ("single_unique", ["0", "1", "2"]),
    ],
)
def test_hardware_threads_where_cores_do_not_suffice(mode: str, shares: list[str]) -> None:
    small = share_cpus(mode, machine([[2, 2]]), range(4), 3)  # cores {0, 2} and {1, 3}
    assert list(small.cpus) == expected(*shares)
    assert small.shortage == "2 physical cores for 3 ranks: ranks share cores, each has hardware threads of its own"


def test_sharing_where_nothing_suffices() -> None:
    flat = machine([[1] * 2])
    shares = share_cpus("socket_unique_interleaved", flat, range(2), 3)
    assert list(shares.cpus) == expected("0-1", "0-1", "0-1")
    assert shares.shortage == "2 physical cores for 3 ranks: ranks share CPUs"
    assert list(share_cpus("single_unique", flat, range(2), 3).cpus) == expected("0", "1", "0")


def test_cpus_that_the_kernel_files_do_not_list() -> None:
    assert lists("socket_unique_interleaved", Topology(()), 2, None, "100-103") == expected("100,102", "101,103")


def test_impossible_requests() -> None:
    for mode, allowed, ranks, localities in (
        ("core", {0}, 1, None),
        ("socket", set(), 1, None),
        ("socket", {0}, 0, None),
        ("socket", {0}, 2, [None]),
    ):
        with pytest.raises(ValueError, match=r"shared out|localities"):
            share_cpus(mode, TWO_SOCKETS, allowed, ranks, localities)


sockets_of_cores = st.lists(st.lists(st.sampled_from([1, 2, 2, 4]), min_size=1, max_size=6), min_size=1, max_size=3)
topologies = st.builds(machine, sockets_of_cores, st.sampled_from(["apart", "adjacent", "alternating"]))


@st.composite
def requests(draw: st.DrawFn) -> tuple[Topology, frozenset[int], int, list[frozenset[int] | None] | None]:
    """Machine, allowed CPUs, ranks and localities of any kind: sockets, arbitrary sets, unknown, none at all."""
    topology = draw(topologies)
    numbers = sorted(all_cpus(topology))
    allowed = draw(st.frozensets(st.sampled_from(numbers), min_size=1) | st.just(frozenset(numbers)))
    ranks = draw(st.integers(1, 8))
    sockets = sorted({cpu.socket for cpu in topology.cpus})
    one = st.one_of(
        st.none(),
        st.sampled_from([of_socket(topology, socket) for socket in sockets]),
        st.frozensets(st.sampled_from(numbers)),
    )
    return topology, allowed, ranks, draw(st.none() | st.lists(one, min_size=ranks, max_size=ranks))


@settings(max_examples=300, deadline=None)
@given(requests(), st.sampled_from(MODES))
def test_what_holds_everywhere(request: tuple, mode: str) -> None:  # type: ignore[type-arg]
    topology, allowed, ranks, localities = request
    shares = share_cpus(mode, topology, allowed, ranks, localities)
    assert len(shares.cpus) == ranks
    for share in shares.cpus:
        assert share
        assert set(share) <= allowed
        assert list(share) == sorted(set(share))
    if mode not in UNIQUE:
        assert shares.shortage == ""
        return
    cores = [{topology.cpu(cpu).core for cpu in share} for share in shares.cpus]
    pairs = list(combinations(range(ranks), 2))
    if len(topology.cores(allowed)) >= ranks:
        assert not any(cores[i] & cores[j] for i, j in pairs)
        if mode != "single_unique":  # whole cores
            for share, own in zip(shares.cpus, cores, strict=True):
                assert set(share) == {cpu for cpu in allowed if topology.cpu(cpu).core in own}
    else:
        assert shares.shortage
    if len(allowed) >= ranks:
        assert not any(set(shares.cpus[i]) & set(shares.cpus[j]) for i, j in pairs)
    if mode == "single_unique":
        assert all(len(share) == 1 for share in shares.cpus)


@settings(max_examples=200, deadline=None)
@given(topologies, st.data())
def test_shares_of_gpus_follow_the_definition(topology: Topology, data: st.DataObject) -> None:
    """Where every socket has a core for each of its GPUs, the modes are word for word those of the reference sheet."""
    sockets = sorted({cpu.socket for cpu in topology.cpus})
    homes = data.draw(st.lists(st.sampled_from(sockets), min_size=1, max_size=8))
    physical = {
        socket: [cpu.number for cpu in topology.cpus if cpu.socket == socket and cpu.core == cpu.number]
        for socket in sockets
    }
    homes = [s for k, s in enumerate(homes) if homes[:k].count(s) < len(physical[s])]
    localities = [of_socket(topology, socket) for socket in homes]
    taken: set[int] = set()
    for rank, socket in enumerate(homes):
        listed, k, g = physical[socket], homes[:rank].count(socket), homes.count(socket)
        first = next(cpu for cpu in listed if cpu not in taken)
        taken.add(first)
        m = len(listed) // g
        wanted = {
            "socket": localities[rank],
            "single": {min(localities[rank])},
            "single_unique": {first},
            "socket_unique_interleaved": {t for c in listed[k::g] for t in topology.siblings(c)},
            "socket_unique_continuous": {t for c in listed[k * m : (k + 1) * m] for t in topology.siblings(c)},
        }
        for mode, cpus in wanted.items():
            shares = share_cpus(mode, topology, all_cpus(topology), len(homes), localities)
            assert set(shares.cpus[rank]) == cpus
            assert shares.shortage == ""


@settings(max_examples=200, deadline=None)
@given(topologies, st.integers(1, 8))
def test_ranks_without_gpu_share_cores_evenly(topology: Topology, ranks: int) -> None:
    """Neighbours stay on a socket, and all cores are used by whole processes, none having twice what it must."""
    shares = share_cpus("socket", topology, all_cpus(topology), ranks).cpus
    assert list(shares) == sorted(shares, key=lambda share: topology.cpu(share[0]).socket)
    sockets = [of_socket(topology, socket) for socket in sorted({cpu.socket for cpu in topology.cpus})]
    if ranks < len(sockets):
        assert set().union(*shares) == all_cpus(topology)
        return
    cores = [len(topology.cores(cpus)) for cpus in sockets]
    counts = [sum(set(share) == cpus for share in shares) for cpus in sockets]
    assert sum(counts) == ranks
    # nobody would be better off on another socket
    for mine, other in combinations(range(len(sockets)), 2):
        for a, b in ((mine, other), (other, mine)):
            if counts[a]:
                assert cores[b] / (counts[b] + 1) <= cores[a] / counts[a] * (1 + 1e-12)  # rounding of the quotients
