"""Exported files are held against the model they are used for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_ext.engines.onnx_inference import no_activation, onnx_network, stored_images, window_size
from monai_ext.errors import InputError
from monai_ext.export.segmentation_inputs import drawn_patches
from monai_ext.export.segmenter import export_segmenter
from monai_ext.export.trained_model import open_model
from monai_ext.inferers.onnx_network import OnnxNetwork
from monai_ext.networks.valid_unet import network_from_em_plan
from monai_ext.planning.em_plan import EmPlan

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
PLAN = EmPlan("cells", "tile", (92, 92), (0.0, 255.0), 2, levels=3, upsampling="conv2")


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of one plan in folders `0` and `1`, each with its export."""
    root = tmp_path_factory.mktemp("folds")
    for fold in range(2):
        torch.manual_seed(fold)
        folder = root / str(fold)
        folder.mkdir()
        (folder / "plan.json").write_text(PLAN.to_json())
        torch.save(network_from_em_plan(PLAN).state_dict(), folder / "model.pt")
        export_segmenter(open_model(folder), folder / "export", ("onnx",), dynamic=fold == 1)
    return root


@pytest.fixture
def run(folds: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folds / "0", tmp_path / "run")


def test_file_beside_the_model(folds: Path) -> None:
    network = onnx_network(PLAN, str(folds / "0"), "")
    assert isinstance(network, OnnxNetwork)
    assert network.path == folds / "0" / "export" / "model.onnx"
    assert window_size(network) == [92, 92]
    assert window_size(onnx_network(PLAN, str(folds / "1"), "")) == []
    x = drawn_patches(1, (92, 92), 3, seed=4)
    with torch.no_grad():
        expected = open_model(folds / "0").network(x)
    # float32 sums in another order
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


def test_folds_are_averaged(folds: Path) -> None:
    network = onnx_network(PLAN, str(folds), "")
    assert window_size(network) == [92, 92]
    x = drawn_patches(1, (92, 92), 1, seed=4)
    with torch.no_grad():
        expected = torch.stack([open_model(folds / str(k)).network(x).softmax(1) for k in range(2)]).mean(0)
        torch.testing.assert_close(network(x).softmax(1), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="is one file, ckpt_path gives 2 models"):
        onnx_network(PLAN, str(folds), "", str(folds / "0" / "export"))


def test_missing_file_tells_the_command(run: Path) -> None:
    (run / "export" / "model.onnx").rename(run / "export" / "model_int8.onnx")
    with pytest.raises(InputError) as caught:
        onnx_network(PLAN, str(run), "")
    message = str(caught.value)
    assert f"--onnx_path {run / 'export' / 'model_int8.onnx'}" in message
    assert f"python -m monai_ext export {run} --format onnx" in message
    shutil.rmtree(run / "export")
    with pytest.raises(InputError, match=r"does not exist\. Cure: python -m monai_ext export"):
        onnx_network(PLAN, str(run), "")


def test_export_of_another_plan_is_refused(run: Path) -> None:
    with pytest.raises(InputError, match=r"plan, value_range: is \[0.0, 255.0\] in the export and \[0.0, 1.0\]"):
        onnx_network(replace(PLAN, value_range=(0.0, 1.0)), str(run), "")


def test_export_of_other_weights_is_refused(folds: Path, run: Path) -> None:
    shutil.copy(folds / "1" / "model.pt", run / "model.pt")
    with pytest.raises(InputError, match="weights: of the export are not those of the model"):
        onnx_network(PLAN, str(run), "")


def test_changed_file_is_refused(run: Path) -> None:
    path = run / "export" / "model.onnx"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InputError, match="has changed since the export"):
        onnx_network(PLAN, str(run), "")


def test_foreign_file_is_checked_by_its_shapes(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two-channel input and three classes, without a manifest."""
    from monai_ext.export.onnx_model import export_onnx

    path = export_onnx(torch.nn.Conv2d(2, 3, 1), tmp_path / "other" / "model.onnx", torch.zeros(1, 2, 9, 9))
    with pytest.raises(InputError) as caught:
        onnx_network(PLAN, str(run), "", str(path))
    assert "input channels: are 2 in the file, 1 in the plan" in str(caught.value)
    assert "classes: are 3 in the file, 2 in the plan" in str(caught.value)
    shutil.copy(run / "export" / "model.onnx", path)
    with caplog.at_level("WARNING"):
        assert isinstance(onnx_network(PLAN, str(run), "", str(path.parent)), OnnxNetwork)
    assert "is in no manifest of an export" in caplog.text


def test_temperature_and_output_come_from_the_manifest(run: Path) -> None:
    manifest = json.loads((run / "export" / "manifest.json").read_text())
    manifest["output"] |= {"temperature": 3.0}
    (run / "export" / "manifest.json").write_text(json.dumps(manifest))
    network: Any = onnx_network(PLAN, str(run), "")
    assert (network.temperature, network.output) == (3.0, "logits")
    manifest["output"]["name"] = "labels"
    (run / "export" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="gives labels"):
        onnx_network(PLAN, str(run), "")


def test_images_of_classifiers_stay_as_they_are() -> None:
    images = torch.arange(12, dtype=torch.uint8).reshape(1, 1, 3, 4)
    found, label = stored_images({"image": images, "label": torch.tensor([1])}, "cpu")
    assert label is None
    assert found.dtype == torch.uint8
    assert torch.equal(found, images)


def test_activation_maps_need_torch() -> None:
    assert no_activation(False) is None
    with pytest.raises(InputError, match="--cam True: needs gradients"):
        no_activation(True)
