"""Kills many runs of the bundles at drawn moments and appends what survived to a CSV file.

Usage: python tests/kill_runs.py --kills 200 --bundle all --results tests/faults.csv
"""

from __future__ import annotations

import os

# before numpy and torch read it: results are compared bit by bit, which asks for one number of threads
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from fault_rows import append_fault
from kill_chains import RUN_PHASES, Reference, chain
from killed_runs import BUNDLES, PHASES

KILLS_A_CHAIN = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="of all bundles together")
    parser.add_argument("--bundle", choices=("all", *BUNDLES), default="all")
    parser.add_argument("--results", type=Path, required=True, help="CSV file that rows are appended to")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="work here; runs that were not as they should be stay")
    given = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="kill_runs-"))
    names = list(BUNDLES) if given.bundle == "all" else [given.bundle]
    tried: Counter[tuple[str, str]] = Counter()
    failed: Counter[tuple[str, str]] = Counter()
    try:
        _kill_all(names, given.kills, given.seed, folder, tried, failed)
    except KeyboardInterrupt:
        print("stopped early", flush=True)
    for bundle in names:
        for phase in PHASES:
            if count := tried[bundle, phase]:
                lost = failed[bundle, phase]
                append_fault(given.results, "SIGKILL", f"{phase} ({bundle})", count, count - lost, lost, given.seed)
    print(f"{sum(tried.values())} kills, {sum(failed.values())} with faults", flush=True)
    return 1 if failed else 0


def _kill_all(
    names: list[str],
    kills: int,
    seed: int,
    folder: Path,
    tried: Counter[tuple[str, str]],
    failed: Counter[tuple[str, str]],
) -> None:
    """Go round the bundles, one chain of kills each, until there were enough."""
    references = {name: Reference(name, folder / name / "undisturbed") for name in names}
    number = 0
    while (left := kills - sum(tried.values())) > 0:
        bundle = names[number % len(names)]
        rng = random.Random(f"{seed} {number}")
        phases = ["preparing", *rng.choices(RUN_PHASES, k=KILLS_A_CHAIN - 3), "inference", "inference"][-left:]
        begun = time.monotonic()
        report = chain(references[bundle], folder / bundle / str(number), phases, f"{seed} {bundle} {number}")
        tried.update((bundle, phase) for phase in report.hit)
        # which of the kills did it is not known; the last one is as good as another
        if report.faults:
            failed[bundle, report.hit[-1] if report.hit else "preparing"] += 1
        seconds = time.monotonic() - begun
        done = sum(tried.values())
        print(f"{done} of {kills} {bundle} {report.hit} in {seconds:.0f} s {report.faults[:5]}", flush=True)
        number += 1


def _end(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
