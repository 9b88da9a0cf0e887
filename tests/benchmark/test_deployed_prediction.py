"""Comparison of torch and exported files on a fold: what its rows say, and refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_ext.benchmark.deployed_prediction import (
    COLUMNS,
    FLOAT,
    FUSED,
    INT8,
    PLAIN,
    run_deployed_benchmark,
)
from monai_ext.benchmark.measurement_rows import read_rows
from monai_ext.datasets.phantom import make_phantom
from monai_ext.errors import InputError
from monai_ext.export.manifest import read_manifest
from monai_ext.networks.plan_unet import network_from_plan
from monai_ext.planning.plan import Plan

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
DEFAULT = Path(__file__).parents[2] / "bundles" / "nnunet" / "configs" / "default_plan.json"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom(tmp_path_factory.mktemp("data") / "phantom", 3)


@pytest.fixture
def run(tmp_path: Path, dataset: Path) -> Path:
    """An untrained network whose labels vary, and the fold it stands for."""
    torch.manual_seed(3)
    plan = Plan.load(DEFAULT)
    small = {"patch_size": (16, 16, 16), "strides": plan.strides[:2], "kernels": plan.kernels[:2], "features": (4, 8)}
    plan = replace(plan, **small, spacing=(1.7, 1.0, 1.0))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "plan.json").write_text(plan.to_json())
    torch.save(network_from_plan(plan, deep_supervision=False).state_dict(), folder / "model.pt")
    names = sorted(path.name.removesuffix(".nii.gz") for path in (dataset / "labelsTr").glob("*.nii.gz"))
    (folder / "fold.json").write_text(json.dumps({"train": names[:2], "val": names[2:]}))
    return folder


def test_rows(run: Path, dataset: Path, tmp_path: Path) -> None:
    """Agreement is with plain torch, ranges of 8 bits come from training cases, files are made once."""
    results = tmp_path / "rows.csv"
    found = run_deployed_benchmark(run, dataset, rounds=1, timed_cases=1, results=str(results))
    rows: dict[str, Any] = {row["side"]: row for row in found}
    assert {PLAIN, FUSED, FLOAT, INT8} <= set(rows)
    assert [row["side"] for row in read_rows(results, COLUMNS)] == list(rows)
    assert float(rows[PLAIN]["agreement_least"]) == float(rows[PLAIN]["ratio"]) == 1
    assert float(rows[FLOAT]["agreement_least"]) >= 0.999  # untrained: many voxels between two classes
    assert 0.5 < float(rows[INT8]["agreement_least"]) < 1
    assert 0 < float(rows[PLAIN]["mean_dice"]) < 0.5
    assert rows[PLAIN]["reached"] == rows[FUSED]["reached"] == ""
    for side in (FLOAT, INT8):
        assert rows[side]["cases"] == rows[side]["n"] == 1
        assert float(rows[side]["median_ms"]) > 0
        assert rows[side]["reached"] in ("yes", "no")
    manifest = read_manifest(run / "export")
    assert manifest["quantize"] == "int8"
    written = (run / "export" / "model.onnx").stat().st_mtime_ns
    again = run_deployed_benchmark(run, dataset, rounds=0)
    assert (run / "export" / "model.onnx").stat().st_mtime_ns == written
    for row in again:
        assert row["median_ms"] == row["ratio"] == ""
        assert {k: row[k] for k in COLUMNS[2:8]} == {k: rows[row["side"]][k] for k in COLUMNS[2:8]}


def test_refusals(run: Path, dataset: Path, tmp_path: Path) -> None:
    (run / "fold.json").write_text(json.dumps({"train": [], "val": ["case_99"]}))
    with pytest.raises(InputError, match="lacks case_99 of the fold"):
        run_deployed_benchmark(run, dataset)
    (run / "fold.json").unlink()
    with pytest.raises(InputError, match=r"has no fold\.json and no evaluation"):
        run_deployed_benchmark(run, dataset)
    shutil.rmtree(run)
    with pytest.raises(InputError, match="does not exist"):
        run_deployed_benchmark(run, dataset)
