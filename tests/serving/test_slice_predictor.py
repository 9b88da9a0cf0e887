"""Membranes without torch against the inference with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_ext.datasets.em_writing import write_stack
from monai_ext.errors import InputError
from monai_ext.export.export_command import export_model
from monai_ext.export.trained_model import open_model
from monai_ext.inferers.slice_inferer import slice_inferer
from monai_ext.networks.valid_unet import network_from_em_plan
from monai_ext.planning.em_plan import EmPlan
from monai_ext.preprocessing.slice_resize import resized
from monai_ext.serving.slice_predictor import SlicePredictor

MakeRun = Callable[..., Path]
PLAN: dict[str, Any] = {
    "dataset": "cells",
    "input_size": (76, 76),
    "value_range": (0.0, 255.0),
    "base_features": 4,
    "levels": 2,
}


def run_of(folder: Path, geometry: str, **changes: Any) -> Path:
    plan = EmPlan(**{**PLAN, "geometry": geometry, "upsampling": "conv2", **changes})
    torch.manual_seed(0)
    folder.mkdir()
    (folder / "plan.json").write_text(plan.to_json())
    torch.save(network_from_em_plan(plan).state_dict(), folder / "model.pt")
    return folder


def drawn_slices(count: int = 2, size: tuple[int, int] = (90, 103)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, *size), np.uint8)


def with_torch(run: Path, slices: np.ndarray, **options: Any) -> np.ndarray:
    model = open_model(run)
    low, high = model.plan.value_range
    images = torch.from_numpy(slices.astype(np.float32) / np.float32((high - low) / 2) - 1)[:, None]
    with torch.no_grad():
        found = slice_inferer(model.plan, **options)(images, model.network)
    return resized(found, slices.shape[-2:])[:, 1].clamp(0, 1).numpy()


@pytest.mark.parametrize(
    ("geometry", "export", "options", "torch_options"),
    [
        ("tile", {}, {}, {"roi_size": (76, 76)}),
        ("tile", {"dynamic": True}, {}, {}),
        ("tile", {}, {"overlap": 0.5, "blend": "constant"}, {"roi_size": (76,), "overlap": 0.5, "blend": "constant"}),
        ("tile", {"output": "probabilities"}, {"tta": True}, {"roi_size": (76, 76), "tta": True}),
        ("resize", {}, {}, {}),
        ("resize", {}, {"tta": True}, {"tta": True}),
    ],
)
def test_probabilities_are_those_of_torch(
    geometry: str, export: dict[str, Any], options: dict[str, Any], torch_options: dict[str, Any], tmp_path: Path
) -> None:
    run = run_of(tmp_path / "run", geometry)
    slices = drawn_slices()
    export_model(run, "onnx", **export)
    found = SlicePredictor(run, **options).predict(slices)
    assert found.dtype == np.float32
    expected = with_torch(run, slices, **torch_options)
    assert expected.std() > 1e-3
    # float32 through ten convolutions, in another order
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_label_maps_are_votes(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "tile", input_size=(92, 92))
    export_model(run, "onnx", output="labels")
    slices = drawn_slices(1, (50, 50))  # one tile: the map itself
    found = SlicePredictor(run).predict(slices)
    expected = with_torch(run, slices, roi_size=(92, 92))
    assert len(np.unique(found)) == 2
    clear = np.abs(expected - 0.5) > 1e-4
    np.testing.assert_array_equal(found[clear], expected[clear] > 0.5)


def test_command_on_a_stack(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "tile")
    export_model(run, "onnx")
    write_stack(tmp_path / "test-volume.tif", drawn_slices())
    code = (
        "import sys; from monai_ext.__main__ import main; sys.argv[0] = 'monai_ext'\n"
        "main(); print([name for name in ('torch', 'monai') if name in sys.modules])"
    )
    words = ["predict", str(run), str(tmp_path / "test-volume.tif"), str(tmp_path / "out"), "--timing", "True"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2 pages of 90 x 103" in done.stdout
    assert "s after the start" in done.stdout
    assert done.stdout.endswith("[]\n")
    from monai_ext.datasets.em_stack import read_em_images

    written = read_em_images(tmp_path / "out" / "test-masks.tif")
    np.testing.assert_array_equal(written, SlicePredictor(run).predict(drawn_slices()))


def test_refusals(tmp_path: Path, exported: Path) -> None:
    run = run_of(tmp_path / "run", "tile")
    export_model(run, "onnx")
    predictor = SlicePredictor(run)
    with pytest.raises(InputError, match=r"slices are \[N, H, W\]"):
        predictor.predict(np.zeros((50, 50), np.uint8))
    with pytest.raises(InputError, match="smaller than the receptive field"):
        predictor.predict(np.zeros((1, 9, 50), np.uint8))
    with pytest.raises(InputError, match="do not fit the model"):
        predictor.predict(np.full((1, 50, 50), 60000, np.uint16))
    with pytest.raises(InputError, match="is a model of nnunet, this takes one of unet_em"):
        SlicePredictor(exported)
    with pytest.raises(InputError, match="overlap"):
        SlicePredictor(run, overlap=1.5)
