"""The picture of benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from monai_ext.benchmark.benchmark_results import COLUMNS, append_benchmark, benchmark_row
from monai_ext.benchmark.plot import draw_benchmarks
from monai_ext.benchmark.timing import Timing
from monai_ext.errors import InputError


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results.csv"
    for mode, voxels, dims in (("train", 0, 3), ("predict", 0, 2), ("predict", 1000, 3)):
        about = {"mode": mode, "spatial_dims": dims, "precision": "float32", "patch_size": (16,) * dims}
        append_benchmark(path, benchmark_row("nnunet", Timing((0.1, 0.2), 1, 0, voxels), about))
    return path


def test_rows_are_drawn(results: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra `plots`")
    draw_benchmarks(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_picture_needs_matplotlib(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        draw_benchmarks(results, tmp_path / "plot.png")


def test_file_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(InputError, match="no rows"):
        draw_benchmarks(path, tmp_path / "plot.png")
