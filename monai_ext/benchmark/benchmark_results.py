"""Measured benchmarks as rows of a CSV file and as a table, beside the published figures."""

from __future__ import annotations

import csv
import io
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from monai_ext.atomic_files import write_text
from monai_ext.benchmark.timing import Timing
from monai_ext.errors import InputError
from monai_ext.results import commit, device_name

PUBLISHED = Path(__file__).parent / "published_figures.csv"
COLUMNS = (
    "benchmark",
    "mode",
    "spatial_dims",
    "batch_size",
    "patch_size",
    "channels",
    "classes",
    "base_features",
    "data",
    "precision",
    "compile",
    "channels_last",
    "deep_supervision",
    "optimizer",
    "warmup_steps",
    "timed_steps",
    "throughput",
    "mean_rate",
    "latency_ms_mean",
    "latency_ms_50",
    "latency_ms_90",
    "latency_ms_95",
    "latency_ms_99",
    "latency_ms_max",
    "voxels_per_second",
    "peak_memory_mib",
    "device",
    "torch",
    "monai",
    "commit",
    "date",
)


def timed_device_name(device: str) -> str:
    """Name of the device that was timed, which on a machine with a GPU may still be its processor."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    if not torch.cuda.is_available():
        return device_name()
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def benchmark_row(benchmark: str, timing: Timing, about: Mapping[str, Any]) -> dict[str, Any]:
    """One row.

    `about` gives the columns that the timing does not know, missing ones stay empty; its `device` (`cpu`, `cuda:0`)
    becomes the name of the machine.
    """
    measured = {name: f"{value:.5g}" for name, value in timing.statistics().items()}
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    row.update({name: value for name, value in about.items() if name in COLUMNS})
    row.update(measured)
    row["benchmark"], row["batch_size"] = benchmark, timing.batch_size
    row["warmup_steps"], row["timed_steps"] = timing.warmup_steps, len(timing.seconds)
    if not isinstance(row["patch_size"], str):
        row["patch_size"] = "x".join(str(n) for n in row["patch_size"])
    if row["peak_memory_mib"]:
        row["peak_memory_mib"] = f"{float(row['peak_memory_mib']):.0f}"
    row["device"] = timed_device_name(str(row["device"] or "cpu"))
    row["torch"], row["monai"] = version("torch"), version("monai")
    row["commit"], row["date"] = commit(Path(__file__).parent), date.today().isoformat()
    return row


def append_benchmark(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row to a CSV file, which is made with its header if it does not exist.

    Raises:
        InputError: the file has other columns.
    """
    rows: list[Mapping[str, Any]] = [*read_benchmarks(path), row] if path.exists() else [row]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_benchmarks(path: Path) -> list[dict[str, str]]:
    """Rows of a result file.

    Raises:
        InputError: the file is missing or has other columns.
    """
    if not path.is_file():
        raise InputError(f"{path}: not found. Cure: run a benchmark with --results {path} first")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise InputError(f"{path}: has other columns than {', '.join(COLUMNS[:4])}, ... Cure: another --results")
        return list(reader)


def published_figures(benchmark: str, mode: str, spatial_dims: int, batch_size: int) -> list[dict[str, str]]:
    """Single-GPU figures of NVIDIA's recipes of 2021 (their READMEs) for the same mode, dimensions and batch.

    `nnunet` are those of nnU-Net on task 01, `unet_em bundle` those of UNet Medical at 572 x 572.
    """
    wanted = {"benchmark": benchmark, "mode": mode, "spatial_dims": str(spatial_dims), "batch_size": str(batch_size)}
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if wanted.items() <= row.items()]


def format_benchmark(row: Mapping[str, Any], figures: Sequence[Mapping[str, str]] = ()) -> str:
    """Text table: the measured row first, then published figures of other machines."""
    columns = ("throughput", *(f"latency_ms_{name}" for name in ("mean", 50, 90, 95, 99, "max")))
    whole_cases = bool(row["voxels_per_second"]) and row["mode"] == "predict"
    header = ["", "precision", "cases/s" if whole_cases else "img/s", "ms mean", "50 %", "90 %", "95 %", "99 %", "max"]
    lines = [[f"here: {row['device']}", str(row["precision"]), *(str(row[c]) for c in columns)]]
    lines += [[f"published: {f['device']}", f["precision"], *(f.get(c) or "-" for c in columns)] for f in figures]
    widths = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]

    def text(line: Sequence[str]) -> str:
        return "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))

    what = f"{row['benchmark']} {row['mode']} {row['spatial_dims']}D, batch {row['batch_size']}"
    how = f"{row['warmup_steps']} steps warm-up, {row['timed_steps']} timed, peak {row['peak_memory_mib']} MiB"
    title = f"{what}, patch {row['patch_size']}, {how}"
    notes = []
    if whole_cases:
        seconds = float(row["latency_ms_mean"]) / 1e3
        notes.append(f"{seconds:.3g} s per case, {float(row['voxels_per_second']):.3g} voxels/s")
    if figures:
        included = row["mode"] == "train" and "loader included" not in str(row["data"])
        loader = "; loading included, which is not here" if included else ""
        notes += [
            f"published: {figures[0]['source']}, one GPU{loader}",
            "other machines and other software: for orientation, not a comparison",
        ]
    return "\n".join([title, text(header), *(text(line) for line in lines), *notes])
