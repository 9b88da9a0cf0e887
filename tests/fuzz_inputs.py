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
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

UNDAMAGED = 0.1  # share of inputs that stay as they are: a reader that refuses everything is no reader
SPARE_BYTES = 2**30  # address space beyond what the imports took
LARGEST_IMAGE_GIB = "0.125"
SECONDS_EACH = 60
BOMB_BYTES = 2**28
TIMES = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255)
NUMBERS = (0, -1, 1, 2**15, 2**16 - 1, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, 10**6, 2**64 - 1)
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 10**6, 10**30, 1e308, -1e308, float("nan"), float("inf"), 0.5, "", " ", ".", "..",
    "../../etc/passwd", "/etc/passwd", "/dev/zero", "a\0b", "\ud800", "x" * 5000, "$import os", "@plan", "%train.json",
    "$__import__('os').system('false')", "a/../../b.nii", "*", "~", "C:\\a", [], {}, [[]], [None], {"a": 1},
    [10**9] * 3, "1e999", "-0", "\u202e",
)  # fmt: skip


@dataclass
class Outcomes:
    """What became of the inputs.

    Attributes:
        accepted, refused: by kind of file.
        failures: number of the input, kind and what happened.
    """

    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str, str]] = field(default_factory=list)


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
            command += ["--first", str(number), "--count", str(end - number), "--dying", *map(str, dying)]
            environment = os.environ | {"MONAI_EXT_MAX_IMAGE_GIB": LARGEST_IMAGE_GIB, "OMP_NUM_THREADS": "1"}
            worker = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
            )
            lines, errors = worker.communicate()
            kind = "start"
            for line in filter(None, lines.splitlines()):
                kind, outcome, text, number = json.loads(line)
                if outcome == "begun":
                    continue
                number += 1
                if outcome == "failed":
                    outcomes.failures.append((number - 1, kind, text))
                else:
                    (outcomes.accepted if outcome == "accepted" else outcomes.refused)[kind] += 1
            if number < end:  # the process died within this input
                what = f"{errors.strip()[:2000]}\nthe process ended with {worker.returncode}"
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
    signal.signal(signal.SIGALRM, _too_long)
    for number in range(first, first + count):
        at = number % len(targets)
        target = targets[at]
        answers.write(json.dumps([target.name, "begun", "", number]) + "\n")
        if number in dying:
            os.kill(os.getpid(), signal.SIGKILL)
        target.file.write_bytes(damaged(originals[at], target.damage, random.Random(f"{seed} {number}")))
        try:
            outcome, text = _read(target), ""
        except BaseException:
            outcome, text = "failed", traceback.format_exc(limit=-6)
        target.file.write_bytes(originals[at])
        answers.write(json.dumps([target.name, outcome, text, number]) + "\n")


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


def damaged(content: bytes, damage: str, rng: random.Random) -> bytes:
    """A file as it may come from elsewhere.

    Args:
        content: of the intact file.
        damage: `binary`, `gzip` (inside the compressed stream), `json` (values of the document) or `text`.
        rng: decides all.
    """
    if rng.random() < UNDAMAGED:
        return content
    if damage == "gzip":
        packer = zlib.compressobj(1, wbits=31)
        inner = _binary(zlib.decompress(content, wbits=31), rng)
        bomb = bytes(BOMB_BYTES) if rng.random() < 0.02 else b""
        return packer.compress(inner) + packer.compress(bomb) + packer.flush()
    if damage == "json" and rng.random() < 0.8:
        return _json(content, rng)
    if damage == "text" and rng.random() < 0.8:
        return _text(content, rng)
    return _binary(content, rng)


def _binary(content: bytes, rng: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        # headers are at the beginning, directories of TIFF at the end
        reach = min(len(found), rng.choice((64, 400, len(found), len(found))))
        at = rng.randrange(reach) if reach else 0
        at = len(found) - 1 - at if reach and rng.random() < 0.2 else at
        action = rng.randrange(7)
        if action == 0 and found:
            found[at] ^= 1 << rng.randrange(8)
        elif action == 1 and found:
            found[at] = rng.choice(TIMES)
        elif action == 2:
            width, order = rng.choice((2, 4, 8)), rng.choice(("little", "big"))
            found[at : at + width] = (rng.choice(NUMBERS) % 2 ** (8 * width)).to_bytes(width, order)
        elif action == 3:
            del found[at:]
        elif action == 4:
            del found[at : at + rng.randrange(1, 40)]
        elif action == 5:
            found[at:at] = rng.randbytes(rng.randrange(1, 40))
        else:
            piece = rng.randrange(1, 60)
            other = rng.randrange(max(len(found), 1))
            found[at : at + piece] = found[other : other + piece]
    return bytes(found)


def _text(content: bytes, rng: random.Random) -> bytes:
    text = content.decode("latin-1")
    for _ in range(rng.choice((1, 1, 2))):
        words = [word for word in text.replace("=", " ").replace(",", " ").split() if word]
        if words:
            hostile = rng.choice([*map(str, HOSTILE), *map(str, NUMBERS), "\n", ",", '"', "=", "\0", "1" * 5000])
            text = text.replace(rng.choice(words), hostile, 1)
    return text.encode("utf-8", "surrogatepass")


def _json(content: bytes, rng: random.Random) -> bytes:
    document = json.loads(content)
    kind = rng.randrange(20)
    if kind == 0:
        return b"[" * 100_000 + b"]" * 100_000
    if kind == 1:
        return content.replace(b"1", b"1" * 5000, 1)
    if kind == 2:
        return json.dumps(rng.choice(HOSTILE)).encode("utf-8", "surrogatepass")
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = list(_places(document))
        if not places:
            break
        holder, key = rng.choice(places)
        action = rng.randrange(5)
        if action == 0:
            del holder[key]
        elif action == 1 and isinstance(holder, list):
            holder.append(deepcopy(holder[key]))
        elif action == 2:
            other_holder, other_key = rng.choice(places)
            holder[key] = deepcopy(other_holder[other_key])
        elif action == 3 and isinstance(holder, dict):
            holder[str(rng.choice(HOSTILE))] = rng.choice(HOSTILE)
        else:
            holder[key] = rng.choice(HOSTILE)
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    keys = document.keys() if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in list(keys):
        yield document, key
        yield from _places(document[key])


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
    print(f"{total} of {arguments.count} inputs kept the rules, {len(outcomes.failures)} failed")
    return 1 if outcomes.failures else 0


if __name__ == "__main__":
    sys.exit(main())
