"""Damaged files of every kind: they are read or refused in words, in bounded memory (`fuzz_inputs` runs many more)."""

from __future__ import annotations

import random

import pytest

from fuzz_inputs import BOMB_BYTES, damaged, run_inputs

COUNT = 312  # eight of each kind of file


def test_damaged_files_are_read_or_refused() -> None:
    outcomes = run_inputs(COUNT, seed=5)
    assert outcomes.failures == []
    assert outcomes.accepted.total() + outcomes.refused.total() == COUNT
    # neither side is the rule: readers that take anything, or nothing, would pass as well
    assert len({*outcomes.accepted, *outcomes.refused}) == 39
    assert len(outcomes.accepted) > 25
    assert len(outcomes.refused) > 30


@pytest.mark.slow  # starts two processes
def test_a_process_that_dies_counts_as_failure_and_the_next_goes_on() -> None:
    outcomes = run_inputs(3, seed=5, dying=(1,))
    assert [number for number, _, _ in outcomes.failures] == [1]
    assert outcomes.accepted.total() + outcomes.refused.total() == 2


def test_damage_depends_on_the_seed_alone() -> None:
    content = bytes(range(256)) * 3
    found = [damaged(content, "binary", random.Random(f"0 {n}")) for n in range(50)]
    assert found == [damaged(content, "binary", random.Random(f"0 {n}")) for n in range(50)]
    assert 30 < len(set(found)) <= 50
    assert BOMB_BYTES > 2**27  # beyond the limit of images in the processes
