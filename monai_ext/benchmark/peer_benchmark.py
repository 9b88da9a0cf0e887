"""Times this package and its peers on the same work, in turns, in one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

from monai_ext.benchmark.interleaved import Interleaved, time_interleaved
from monai_ext.benchmark.measurement_rows import (
    append_rows,
    circumstances,
    format_table,
    installed_versions,
    measured_device,
    milliseconds,
)
from monai_ext.benchmark.peak_memory import measure_in_process
from monai_ext.benchmark.peers.rows import ROWS, PeerRow
from monai_ext.benchmark.peers.work import OURS, Work
from monai_ext.errors import InputError

SLOW_SECONDS = 20.0  # a peer whose call takes longer is called once
PACKAGES = ("torch", "monai", "nnunetv2", "batchgeneratorsv2")
COLUMNS = (
    "work",
    "side",
    "min_ms",
    "median_ms",
    "max_ms",
    "n",
    "ratio",
    "peak_mib",
    "target_ratio",
    "reached",
    "note",
    "device",
    "threads",
    "versions",
    "commit",
    "date",
)
SHOWN = COLUMNS[:11]


def run_peer_benchmark(
    work: Sequence[str] = (),
    rounds: int = 7,
    results: str = "",
    dataset_dir: str = "",
    device: str = "cpu",
    tiny: bool = False,
) -> list[dict[str, Any]]:
    """Measure comparisons, print each as soon as it is done, and append its rows.

    Args:
        work: names of rows or kinds of work; empty takes all.
        rounds: timings per side; peers slower than 20 s have one.
        results: CSV file; empty for none.
        dataset_dir: in MSD format, for `prepare`; empty takes a phantom dataset.
        device: of the comparisons that have one; the others are for processors.
        tiny: the sizes of the tests, which say nothing about speed.

    Returns:
        Rows with `COLUMNS`. `ratio` is the peer's time over ours, above 1 where ours is faster.

    Raises:
        InputError: a name or the device is unknown, `rounds` is below 1, or the file has other columns.
    """
    rows = select_rows(work)
    if not isinstance(rounds, int) or rounds < 1:
        raise InputError(f"benchmark peers: --rounds {rounds} is no whole number from 1 on. Cure: 7")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"benchmark peers: --device {device}: {reason}. Cure: cpu, or cuda:0 on a GPU") from error
    measured = []
    for row in rows:
        if device != "cpu" and not row.on_device:
            print(f"{row.name}: for processors only, left out")
            continue
        if device == "cpu" and row.only_cuda and not tiny:
            print(f"{row.name}: for GPUs only, left out")
            continue
        changes: dict[str, Any] = dict(row.tiny) if tiny else {}
        changes |= {"device": device} if row.on_device else {}
        changes |= {"dataset_dir": dataset_dir} if row.work == "preparation" and not tiny else {}
        lines, remarks = measure_row(row, rounds, {**row.arguments, **changes}, device)
        print("\n".join([format_table(lines, SHOWN, 2), *remarks]), flush=True)
        if results:
            append_rows(Path(results), lines, COLUMNS)
        measured += lines
    return measured


def select_rows(names: Sequence[str]) -> list[PeerRow]:
    """Comparisons by name, or by kind of work; all without names.

    Raises:
        InputError: a name is unknown.
    """
    known = [*(row.name for row in ROWS), *dict.fromkeys(row.work for row in ROWS)]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"benchmark peers: unknown --work {', '.join(unknown)}. Cure: of {', '.join(known)}")
    return [row for row in ROWS if not names or row.name in names or row.work in names]


def measure_row(
    row: PeerRow, rounds: int, arguments: dict[str, Any], device: str = "cpu"
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of one comparison, ours first, and remarks about peers that are not there."""
    with _threads(row.threads):
        threads = torch.get_num_threads()
        work = row.build(**arguments)
        apart = [side for side in row.once if side in work.tasks]
        in_turns = {side: task for side, task in work.tasks.items() if side not in apart}
        rounds = min(rounds, row.most_rounds) if row.most_rounds else rounds
        timing = time_interleaved(in_turns, rounds, device, slow_seconds=SLOW_SECONDS)
        sides = list(work.tasks)
        notes = {side: [work.always] if work.always else [] for side in sides}
        if work.notes is not None and len(in_turns) > 1 and not apart:
            for side, note in work.notes().items():
                notes[side].append(note)
        work = Work(missing=work.missing)  # frees the inputs before processes of their own make them again
        peaks: dict[str, float] = {}
        on_cuda = torch.device(device).type == "cuda"
        for side in sides:
            if (row.with_memory and not on_cuda) or side in apart:
                peaks[side], seconds = measure_in_process(row.make, side, arguments, row.tiny, threads)
                if side in apart:
                    timing = Interleaved({**timing.seconds, side: (seconds,)})
    for side in sides:
        if len(timing.seconds[side]) == 1 < rounds:
            notes[side].append("1 round")
    about = {"device": measured_device(device), "threads": threads, "versions": installed_versions(PACKAGES)}
    about |= circumstances()
    lines = [_line(row, side, timing, peaks, "; ".join(notes[side])) | about for side in sides]
    return lines, [f"{row.name}: no {side}: {why}" for side, why in work.missing.items()]


def _line(row: PeerRow, side: str, timing: Interleaved, peaks: dict[str, float], note: str) -> dict[str, Any]:
    least, middle, most = map(milliseconds, timing.spread(side))
    line: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    line |= {"work": row.name, "side": side, "min_ms": least, "median_ms": middle, "max_ms": most, "note": note}
    line["n"] = len(timing.seconds[side])
    line["peak_mib"] = f"{peaks[side]:.0f}" if side in peaks else ""
    if side != OURS:
        ratio, target = timing.ratio(side, OURS), row.targets.get(side)
        line["ratio"] = f"{ratio:.3g}"
        if target is not None:
            line |= {"target_ratio": target, "reached": "yes" if ratio >= target else "no"}
    return line


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def median_ratios(rows: Sequence[dict[str, str]]) -> dict[tuple[str, str], tuple[float, float]]:
    """(work, peer) to ratio and target, in the order of first appearance; repeated runs by their median.

    Peers without a target are left out.
    """
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row["ratio"] and row["target_ratio"]:
            found.setdefault((row["work"], row["side"]), []).append((float(row["ratio"]), float(row["target_ratio"])))
    return {key: (median(r for r, _ in values), values[-1][1]) for key, values in found.items()}
