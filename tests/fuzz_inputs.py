"""Damages real files at random and reads them: every outcome must be success or an `InputError`, in bounded memory.

    python tests/fuzz_inputs.py --count 20000 --seed 0

A process reads the inputs one after another, below a limit of address space; where it dies, that input counts as a
failure and a new process goes on behind it. Input i of a seed is the same in every run; `--first i --count 1` repeats
it.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz_damage import damaged

SPARE_BYTES = 2**30  # address space beyond what the imports took
LARGEST_IMAGE_GIB = "0.125"
SECONDS_EACH = 60
INPUTS_EACH = 4000  # of a process: libraries written in C++ keep a little of what they began to read and then refused


@dataclass
class Outcomes:
    """What became of the inputs.

    Attributes:
        accepted, refused: by kind of file.
        failures: number of the input, kind and what happened.
        grown: by kind, MiB by which its inputs raised the largest memory that a process has had.
    """

    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str, str]] = field(default_factory=list)
    grown: Counter[str] = field(default_factory=Counter)


def run_inputs(count: int, seed: int = 0, first: int = 0, dying: Collection[int] = ()) -> Outcomes:
    """Read inputs `first` to `first + count - 1` of a seed in processes of their own.

    Args:
        count, seed, first: which.
        dying: inputs at which the process ends itself, to test that this is noticed.
    """
    outcomes, number, end = Outcomes(), first, first + count
    with tempfile.TemporaryDirectory() as folder:
        while number < end:
            command = [sys.executable, __file__, "--worker", folder, "--seed", str(seed)]
            after = min(end, number + INPUTS_EACH)
            command += ["--first", str(number), "--count", str(after - number), "--dying", *map(str, dying)]
            environment = os.environ | {"MONAI_EXT_MAX_IMAGE_GIB": LARGEST_IMAGE_GIB, "OMP_NUM_THREADS": "1"}
            environment |= {"MALLOC_ARENA_MAX": "1"}  # one for each thread takes address space, though no memory
            worker = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
            )
            lines, errors = worker.communicate()
            kind = "start"
            for line in filter(None, lines.splitlines()):
                kind, outcome, text, number, grown = json.loads(line)
                if outcome == "begun":
                    continue
                number += 1
                outcomes.grown[kind] = max(outcomes.grown[kind], grown)
                if outcome == "failed":
                    outcomes.failures.append((number - 1, kind, text))
                else:
                    (outcomes.accepted if outcome == "accepted" else outcomes.refused)[kind] += 1
            if number < after:  # the process died within this input
                stack = errors.split("Extension modules")[0].strip()  # the interpreter lists them all behind it
                what = f"{stack[-2000:]}\nthe process ended with {worker.returncode}"
                outcomes.failures.append((number, kind, what))
                if kind == "start":
                    break
                number += 1
    return outcomes


def _work(folder: Path, count: int, seed: int, first: int, dying: Collection[int]) -> None:
    from fuzz_targets import make_targets

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries written in C print
    faulthandler.enable()
    targets = make_targets(folder)
    originals = [target.file.read_bytes() for target in targets]
    _limit_memory()
    peak = _peak()
    signal.signal(signal.SIGALRM, _too_long)
    for number in range(first, first + count):
        at = number % len(targets)
        target = targets[at]
        answers.write(json.dumps([target.name, "begun", "", number, 0]) + "\n")
        if number in dying:
            os.kill(os.getpid(), signal.SIGKILL)
        target.file.write_bytes(damaged(originals[at], target.damage, random.Random(f"{seed} {number}")))
        try:
            outcome, text = _read(target), ""
        except BaseException:
            outcome, text = "failed", traceback.format_exc(limit=-6)
        target.file.write_bytes(originals[at])
        before, peak = peak, _peak()
        answers.write(json.dumps([target.name, outcome, text, number, peak - before]) + "\n")


def _peak() -> int:
    """Most MiB of memory that this process has had."""
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) // 1024


def _read(target: Any) -> str:
    from monai_ext.errors import InputError

    accepted = []
    for reader in target.readers:
        signal.alarm(SECONDS_EACH)
        try:
            reader(target.file)
            accepted.append(reader)
        except InputError as error:
            if not str(error).strip():
                raise AssertionError("a message that says nothing") from error
        finally:
            signal.alarm(0)
    return "accepted" if target.readers[0] in accepted else "refused"


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS_EACH} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--row", action="store_true", help="append a row to the table of faults")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dying", type=int, nargs="*", default=(), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        _work(arguments.worker, arguments.count, arguments.seed, arguments.first, arguments.dying)
        return 0
    outcomes = run_inputs(arguments.count, arguments.seed, arguments.first)
    by_kind: dict[str, list[str]] = defaultdict(list)
    for number, kind, text in outcomes.failures:
        what = f"{kind}: {(text.strip().splitlines() or [''])[-1][:150]}"
        by_kind[what].append(str(number))
        if len(by_kind[what]) == 1:
            print(text)
    for kind in sorted({*outcomes.accepted, *outcomes.refused}):
        print(f"{kind:28} accepted {outcomes.accepted[kind]:6} refused {outcomes.refused[kind]:6}")
    for what, numbers in sorted(by_kind.items()):
        print(f"FAILED {len(numbers):5} x {what} (inputs {', '.join(numbers[:5])})")
    total = outcomes.accepted.total() + outcomes.refused.total()
    kinds = len({*outcomes.accepted, *outcomes.refused})
    print(f"{total} of {arguments.count} inputs of {kinds} kinds kept the rules, {len(outcomes.failures)} failed")
    print(f"MiB by which memory grew, most: {dict(outcomes.grown.most_common(5))}")
    if arguments.row:
        from fault_rows import RESULTS, append_fault

        phase = f"reading {kinds} kinds of file"
        append_fault(RESULTS, "damaged or hostile file", phase, arguments.count, total, 0, arguments.seed)
    return 1 if outcomes.failures else 0


if __name__ == "__main__":
    sys.exit(main())
