"""A run killed again and again, gone on with each time, and compared with one that nobody disturbed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from killed_runs import (
    FEWER,
    INPUTS,
    TRAINING,
    Kill,
    Outcome,
    contents,
    differences,
    import_what_was_imported,
    in_killed_child,
    run_bundle,
    whole_so_far,
)

STEPWISE = ("training", "checkpoint writing", "validation")
RUN_PHASES = ("preparing", "training", "checkpoint writing", "validation", "evaluation")


@dataclass
class Report:
    """Kills of one chain: phase that each hit, what was found wrong after it."""

    hit: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Reference:
    """An undisturbed run of a bundle: what it leaves, and how long each phase takes (seconds)."""

    def __init__(self, bundle: str, folder: Path) -> None:
        self.bundle = bundle
        self.folder = folder
        folder.mkdir(parents=True)
        self.durations: dict[str, list[float]] = {}
        for outcome in (train(bundle, folder, None, resume=False), predict(bundle, folder, None)):
            if outcome.status != 0:
                raise AssertionError((folder / "words.txt").read_text()[-3000:])
            import_what_was_imported(folder)
            for phase, values in outcome.durations.items():
                self.durations.setdefault(phase, []).extend(values)
        self.contents = contents(folder)


def train(bundle: str, folder: Path, kill: Kill | None, resume: bool = True) -> Outcome:
    """Prepare, train and evaluate in `folder`, as far as `kill` lets it."""
    keys = TRAINING | FEWER.get(bundle, {})
    body = partial(run_bundle, bundle, "train_and_evaluate", output_dir="run", store_dir="store", resume=resume, **keys)
    return in_killed_child(body, folder, kill, "evaluation")


def predict(bundle: str, folder: Path, kill: Kill | None) -> Outcome:
    """Predict with the model of the run in `folder`."""
    body = partial(
        run_bundle,
        bundle,
        "inference",
        input=str(folder / "store" / "raw" / INPUTS[bundle]),
        output_dir="predictions",
        ckpt_path="run/model.pt",
        overwrite=True,
    )
    return in_killed_child(body, folder, kill, "inference")


def draw(phase: str, reference: Reference, rng: random.Random) -> Kill:
    """A moment within a phase, each as likely as another.

    Of the parts that a phase comes in, one of the first, since a run that was resumed has not all of them.
    """
    durations = reference.durations[phase]
    entry = rng.randint(1, max(1, len(durations) // 3)) if phase in STEPWISE else 1
    return Kill(phase, entry, rng.random() * durations[entry - 1])


def chain(reference: Reference, folder: Path, phases: Sequence[str], seed: str) -> Report:
    """Kill a run in each of `phases` one after the other, finish it, and compare.

    Args:
        reference: of the same bundle.
        folder: to be made; removed again if nothing was wrong.
        phases: of `PHASES`; a moment that a run does not reach any more is left out.
        seed: of the moments.
    """
    rng = random.Random(seed)
    report = Report()
    folder.mkdir(parents=True)
    seen: set[str] = set()
    finished = False
    # what comes after training comes last, or there would be no training left to kill
    for phase in sorted((name for name in phases if name != "inference"), key=lambda name: name == "evaluation"):
        if finished and phase != "evaluation":
            continue
        outcome = train(reference.bundle, folder, draw(phase, reference, rng))
        if outcome.killed:
            report.hit.append(outcome.phase)
            report.faults += [f"killed in {outcome.phase}: {line}" for line in whole_so_far(folder / "run", seen)]
        elif outcome.status != 0:
            report.faults.append(f"resume failed with status {outcome.status}, see {folder / 'words.txt'}")
            return report
        finished = finished or not outcome.killed
    if (status := train(reference.bundle, folder, None).status) != 0:
        report.faults.append(f"resume failed with status {status}, see {folder / 'words.txt'}")
        return report
    for phase in phases:
        if phase == "inference" and (outcome := predict(reference.bundle, folder, draw(phase, reference, rng))).killed:
            report.hit.append("inference")
    if (status := predict(reference.bundle, folder, None).status) != 0:
        report.faults.append(f"inference failed with status {status}, see {folder / 'words.txt'}")
        return report
    report.faults += differences(contents(folder), reference.contents)
    if not report.faults:
        shutil.rmtree(folder)
    return report
