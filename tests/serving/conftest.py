"""Small models and their exports, for tests of serving without torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_ext.export.segmenter import export_segmenter
from monai_ext.export.trained_model import open_model
from monai_ext.networks.plan_unet import network_from_plan
from monai_ext.planning.plan import Plan
from small_segmenter import small_plan

MakeRun = Callable[..., Path]
Export = Callable[..., Path]


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Folder with `model.pt` and `plan.json` of a network with drawn weights."""

    def make(plan: Plan, seed: int = 0) -> Path:
        torch.manual_seed(seed)
        network = network_from_plan(plan, deep_supervision=False)
        folder = tmp_path_factory.mktemp("run")
        (folder / "plan.json").write_text(plan.to_json())
        torch.save(network.state_dict(), folder / "model.pt")
        return folder

    return make


@pytest.fixture(scope="session")
def export() -> Export:
    """Write the export of a run and return its folder."""

    def write(run: Path, name: str = "export", **options: Any) -> Path:
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
        export_segmenter(open_model(run), run / name, ["onnx"], **options)
        return run / name

    return write


@pytest.fixture(scope="session")
def exported(make_run: MakeRun, export: Export) -> Path:
    """One export for all tests that need any."""
    return export(make_run(small_plan()))
