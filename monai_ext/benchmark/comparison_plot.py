"""A picture of the comparison with peers."""

from __future__ import annotations

from pathlib import Path

from monai_ext.atomic_files import replacing
from monai_ext.benchmark.measurement_rows import read_rows
from monai_ext.benchmark.peer_benchmark import COLUMNS, median_ratios
from monai_ext.errors import InputError

REACHED, MISSED = "#4878a8", "#c0504d"


def draw_comparison(path: Path, picture: Path) -> None:
    """Horizontal bars: how many times faster ours is than each peer, and the target as a line.

    The axis is logarithmic, so that twice as fast and half as fast are equally far from equal. Where a comparison has
    been run several times, the median of its ratios is drawn.

    Raises:
        InputError: the file cannot be used or compares nothing, or matplotlib is not installed.
    """
    ratios = median_ratios(read_rows(path, COLUMNS))
    if not ratios:
        raise InputError(f"{path}: compares nothing. Cure: run `benchmark peers` where a peer is installed")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
    except ImportError as error:
        raise InputError("plots need matplotlib. Cure: pip install matplotlib") from error
    figure = Figure(figsize=(8, 1.0 + 0.36 * len(ratios)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    values = [ratio for ratio, _ in ratios.values()]
    colors = [REACHED if ratio >= target else MISSED for ratio, target in ratios.values()]
    # bars start at 1: what lies left of it is slower than the peer
    bars = axes.barh(range(len(values)), [v - 1 for v in values], left=1, color=colors)
    axes.bar_label(bars, [f"{v:.3g}" for v in values], padding=3, fontsize=8)
    for place, (_, target) in enumerate(ratios.values()):
        axes.plot([target, target], [place - 0.4, place + 0.4], color="black", linewidth=2)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.margins(x=0.12)
    axes.set_yticks(range(len(values)), [f"{work}\n{side}" for work, side in ratios], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("times faster than the peer (black: target)")
    with replacing(picture) as partial:
        figure.savefig(partial, format="png")
