"""Runs killed at drawn moments, from preparing to inference, go on and end bit by bit as one that nobody disturbed."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from kill_chains import Reference, chain
from killed_runs import BUNDLES, PHASES, Kill, in_killed_child

pytestmark = [pytest.mark.skipif(os.name != "posix", reason="kills processes"), pytest.mark.slow]
KILLS = 30


def _chains(bundle: str, folder: Path, kills: int, seed: int) -> Counter[str]:
    """Kill runs of a bundle until there were enough kills; how often each phase was hit."""
    reference = Reference(bundle, folder / "undisturbed")
    hit: Counter[str] = Counter()
    number = 0
    while hit.total() < kills:
        rng = random.Random(f"{seed} {number}")
        # the phases of a training as they come, each at least once
        phases = ["preparing", "training", "checkpoint writing", "validation", "evaluation", "inference"]
        phases += rng.choices(["training", "checkpoint writing", "validation"], k=4)
        rng.shuffle(phases)
        report = chain(reference, folder / str(number), phases, f"{seed} {bundle} {number}")
        assert not report.faults, (report, number)
        assert report.hit
        hit.update(report.hit)
        number += 1
    return hit


@pytest.mark.timeout(1800)  # a minute of work, for machines that others use too
def test_thirty_kills(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # children of a process with more of them would wait for threads that they do not have
    try:
        hit = _chains("nnunet", tmp_path, KILLS, seed=1)
    finally:
        torch.set_num_threads(threads)
    # a moment falls into the next phase where the machine is faster than it was for the undisturbed run
    assert sum(hit[phase] > 0 for phase in PHASES) >= len(PHASES) - 1, hit


@pytest.mark.long
@pytest.mark.parametrize("bundle", [name for name in BUNDLES if name != "nnunet"])
def test_kills_of_the_other_bundles(bundle: str, tmp_path: Path) -> None:
    _chains(bundle, tmp_path, 8, seed=2)


def test_the_child_is_killed_in_its_phase(tmp_path: Path) -> None:
    outcome = in_killed_child(lambda: _sleep(), tmp_path, Kill("preparing", 1, 0.05))
    assert outcome.killed
    assert outcome.phase == "preparing"
    assert in_killed_child(lambda: None, tmp_path, None).status == 0
    assert in_killed_child(lambda: 1 / 0, tmp_path, None).status == 1  # type: ignore[arg-type,return-value]
    assert "ZeroDivisionError" in (tmp_path / "words.txt").read_text()


def _sleep() -> None:
    import time

    time.sleep(60)
