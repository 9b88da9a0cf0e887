"""A picture of measured benchmarks."""

from __future__ import annotations

from pathlib import Path

from monai_ext.atomic_files import replacing
from monai_ext.benchmark.benchmark_results import read_benchmarks
from monai_ext.errors import InputError


def draw_benchmarks(path: Path, picture: Path) -> None:
    """Bars of the throughput of every row of a result file.

    One panel for each benchmark, mode, number of dimensions and kind of data: what is not of one kind is not compared.

    Raises:
        InputError: the file cannot be used or holds no rows, or matplotlib is not installed.
    """
    rows = read_benchmarks(path)
    if not rows:
        raise InputError(f"{path}: holds no rows. Cure: run a benchmark with --results {path} first")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("plots need matplotlib. Cure: pip install matplotlib") from error
    kinds = [(row["benchmark"], row["mode"], row["spatial_dims"], row["data"]) for row in rows]
    panels = list(dict.fromkeys(kinds))
    figure = Figure(figsize=(8, 0.9 + 0.45 * len(rows) + 0.5 * len(panels)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    counts = [kinds.count(panel) for panel in panels]
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=counts)
    for axes, panel in zip(grid[:, 0], panels, strict=True):
        benchmark, mode, dims, data = panel
        shown = [row for row, kind in zip(rows, kinds, strict=True) if kind == panel]
        names = [f"{r['precision']}, batch {r['batch_size']}, {r['patch_size']}\n{r['device']}" for r in shown]
        bars = axes.barh(range(len(shown)), [float(r["throughput"]) for r in shown], color="#4878a8")
        axes.bar_label(bars, [r["throughput"] for r in shown], padding=3)
        axes.set_yticks(range(len(shown)), names, fontsize=7)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        whole_cases = mode == "predict" and shown[0]["voxels_per_second"]
        unit = "cases" if whole_cases else "slices" if dims == "2" else "patches"
        axes.set_xlabel(f"{unit} per second")
        axes.set_title(f"{benchmark} {mode}, {dims}D, {data}", loc="left", fontsize=9)
    with replacing(picture) as partial:
        figure.savefig(partial, format="png")
