"""Script: faults of disk, memory and folders at drawn moments, and one row of `faults.csv` for each fault and phase.

    python tests/disk_fault_runs.py --tries 10 --bundle all --seed 1 --results tests/faults.csv

What went wrong is printed. Ends with status 1 if anything was lost or did not end as it should. Needs the right to
mount a disk in memory, as root or in a user namespace.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import disk_faults  # noqa: E402
from fault_rows import RESULTS, append_fault  # noqa: E402
from fault_scene import BUNDLES, Scene  # noqa: E402
from forked_child import in_child  # noqa: E402

Draw = Callable[[random.Random], tuple[Any, ...]]


@dataclass(frozen=True)
class Fault:
    """A function of `disk_faults`, how it is called in the table, and how its arguments are drawn.

    Attributes:
        function: its name.
        name: of the fault.
        phase: that it hits.
        draw: its arguments.
        drawn: whether the arguments differ from try to try; otherwise one try is made.
    """

    function: str
    name: str
    phase: str
    draw: Draw
    drawn: bool = True


def _nothing(_: random.Random) -> tuple[Any, ...]:
    return ()


FAULTS = (
    Fault("disk_full_preparing", "disk full", "preparing", lambda r: (r.uniform(0, 0.9),)),
    Fault("disk_full_training", "disk full", "training, checkpoint writing, log", lambda r: (r.uniform(0, 0.75),)),
    Fault("disk_full_predicting", "disk full", "inference", lambda r: (r.uniform(0, 0.9),)),
    Fault("disk_full_predicting", "disk full", "evaluation", lambda r: (r.uniform(0, 0.9), "evaluating")),
    Fault("file_too_large", "file size limit", "checkpoint writing", lambda r: (r.randint(1, 12),)),
    Fault("read_only_output", "read-only output folder", "training", lambda _: ("training",), False),
    Fault("read_only_output", "read-only output folder", "inference", lambda _: ("inference",), False),
    Fault("read_only_output", "read-only output folder", "evaluation", lambda _: ("evaluating",), False),
    Fault("read_only_store", "read-only store", "preparing", _nothing, False),
    Fault("folder_removed", "output folder moved", "training", lambda _: (1, "moved"), False),
    Fault("folder_removed", "output folder replaced", "training", lambda _: (1, "replaced"), False),
    Fault("folder_removed", "output folder removed", "training", lambda _: (1, "removed"), False),
    Fault("loader_killed", "worker of the loader killed", "training", lambda _: (1,), False),
    Fault("few_files_allowed", "limit of open files", "training", lambda r: (r.randint(0, 3),), False),
    Fault("no_memory", "limit of memory", "training", lambda r: (r.randint(20, 60),), False),
)


def try_out(fault: Fault, scene: Scene, tries: int, seed: int) -> tuple[int, int, int]:
    """How often a fault was tried, survived, and lost something."""
    draws = random.Random(f"{seed} {scene.bundle} {fault.function} {fault.phase}")
    tries = tries if fault.drawn else 1
    survived = lost = 0
    for number in range(tries):
        arguments = fault.draw(draws)
        scene.work = Path(tempfile.mkdtemp(prefix="fault-"))
        try:
            in_child(partial(getattr(disk_faults, fault.function), scene, *arguments), scene.work / "report")
            survived += 1
        except pytest.fail.Exception as failure:
            lost += "Lost: " in str(failure)
            print(f"{scene.bundle}: {fault.name}, {fault.phase}, try {number} with {arguments}:\n{failure}", flush=True)
        finally:
            shutil.rmtree(scene.work, ignore_errors=True)
    return tries, survived, lost


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tries", type=int, default=5, help="of every fault whose moment is drawn")
    parser.add_argument("--bundle", choices=[*BUNDLES, "all"], default="all")
    parser.add_argument("--fault", default="", help="only those whose function has this name")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    bad = 0
    for bundle in BUNDLES if options.bundle == "all" else (options.bundle,):
        folder = Path(tempfile.mkdtemp(prefix="scene-"))
        try:
            scene = Scene(bundle, folder).prepare()
            for fault in FAULTS:
                if options.fault not in ("", fault.function):
                    continue
                tried, survived, lost = try_out(fault, scene, options.tries, options.seed)
                phase = f"{fault.phase} ({bundle})"
                append_fault(options.results, fault.name, phase, tried, survived, lost, options.seed)
                print(f"{fault.name}, {phase}: {survived} of {tried} survived, {lost} lost", flush=True)
                bad += tried - survived
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
