"""Measured benchmarks as rows of a CSV file, beside the published figures, and a plot of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from monai_ext.atomic_files import replacing, write_text
from monai_ext.benchmark.nnunet import BenchmarkOptions
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
    "peak_memory_mib",
    "device",
    "torch",
    "monai",
    "commit",
    "date",
)


def benchmark_row(benchmark: str, timing: Timing, about: Mapping[str, Any]) -> dict[str, Any]:
    """One row; `about` gives the columns that the timing does not know, missing ones stay empty."""
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
    row["device"], row["torch"], row["monai"] = device_name(), version("torch"), version("monai")
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


def published_figures(options: BenchmarkOptions) -> list[dict[str, str]]:
    """Single-GPU figures of NVIDIA's nnU-Net of 2021 (its README, task 01) for the same mode, dimensions and batch."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        wanted = (options.mode, str(options.spatial_dims), str(options.batch_size))
        return [r for r in csv.DictReader(file) if (r["mode"], r["spatial_dims"], r["batch_size"]) == wanted]


def format_benchmark(row: Mapping[str, Any], figures: Sequence[Mapping[str, str]] = ()) -> str:
    """Text table: the measured row first, then published figures of other machines."""
    columns = ("throughput", "latency_ms_mean", "latency_ms_90", "latency_ms_95", "latency_ms_99")
    header = ["", "precision", "img/s", "ms mean", "90 %", "95 %", "99 %"]
    lines = [[f"here: {row['device']}", str(row["precision"]), *(str(row[c]) for c in columns)]]
    lines += [[f"published: {f['device']}", f["precision"], *(f[c] or "-" for c in columns)] for f in figures]
    widths = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]

    def text(line: Sequence[str]) -> str:
        return "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))

    what = f"{row['benchmark']} {row['mode']} {row['spatial_dims']}D, batch {row['batch_size']}"
    how = f"{row['warmup_steps']} steps warm-up, {row['timed_steps']} timed, peak {row['peak_memory_mib']} MiB"
    title = f"{what}, patch {row['patch_size']}, {how}"
    note = ["published: NVIDIA nnU-Net 2021, one GPU; other machines, for orientation"] if figures else []
    return "\n".join([title, text(header), *(text(line) for line in lines), *note])


def draw_benchmarks(path: Path, picture: Path) -> None:
    """Bars of the throughput of every row of a result file, one panel for each mode and number of dimensions.

    Raises:
        InputError: the file cannot be used, or matplotlib is not installed.
    """
    rows = read_benchmarks(path)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("plots need matplotlib. Cure: pip install matplotlib") from error
    panels = list(dict.fromkeys((r["mode"], r["spatial_dims"]) for r in rows))
    figure = Figure(figsize=(8, 0.9 + 0.45 * len(rows) + 0.5 * len(panels)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    counts = [sum((r["mode"], r["spatial_dims"]) == p for r in rows) for p in panels]
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=counts)
    for axes, (mode, dims) in zip(grid[:, 0], panels, strict=True):
        shown = [r for r in rows if (r["mode"], r["spatial_dims"]) == (mode, dims)]
        names = [f"{r['precision']}, batch {r['batch_size']}, {r['patch_size']}\n{r['device']}" for r in shown]
        bars = axes.barh(range(len(shown)), [float(r["throughput"]) for r in shown], color="#4878a8")
        axes.bar_label(bars, [r["throughput"] for r in shown], padding=3)
        axes.set_yticks(range(len(shown)), names, fontsize=7)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel("slices per second" if dims == "2" else "patches per second")
        axes.set_title(f"{mode}, {dims}D", loc="left", fontsize=9)
    with replacing(picture) as partial:
        figure.savefig(partial, format="png")
