"""A classifier's files and their manifest: equal to the network, or refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from drawn_classifier import drawn_images, make_plan, normalised, warmed_network
from monai_ext.errors import InputError
from monai_ext.export import classifier
from monai_ext.export.classifier import QAT_OPTIONS, export_classifier
from monai_ext.export.manifest import MANIFEST, read_manifest
from monai_ext.export.onnx_model import onnx_runner
from monai_ext.export.torchscript import torchscript_runner
from monai_ext.networks.fake_quantisation import set_quantising, with_fake_quantisation
from monai_ext.planning.class_plan import ClassPlan

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, about TorchScript's future


def probabilities(network: nn.Module, plan: ClassPlan, images: torch.Tensor) -> torch.Tensor:
    """As the bundle computes them, without the code under test."""
    with torch.no_grad():
        logits = copy.deepcopy(network).eval()(normalised(images, plan))
    return logits.sigmoid() if plan.multi_label else logits.softmax(1)


def entry(manifest: dict[str, Any], file: str) -> dict[str, Any]:
    return next(artefact for artefact in manifest["artefacts"] if artefact["file"] == file)


def test_float_files_equal_the_network(
    network: nn.Module, plan: ClassPlan, images: torch.Tensor, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    manifest = export_classifier(network, plan, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.ts", "model.onnx", MANIFEST}
    assert read_manifest(tmp_path) == manifest == json.loads((tmp_path / MANIFEST).read_text())
    expected = probabilities(network, plan, images)
    assert expected.argmax(1).unique().numel() > 1  # otherwise equal outputs would say nothing
    for file, run in (
        ("model.ts", torchscript_runner(tmp_path / "model.ts")),
        ("model.onnx", onnx_runner(tmp_path / "model.onnx", 1)),
    ):
        # sums in another order, norms folded
        torch.testing.assert_close(run(images), expected, rtol=1e-4, atol=1e-5)
        assert entry(manifest, file)["max_difference"] < 1e-5
        assert entry(manifest, file)["agreement"] == 1
    # TorchScript takes float images too
    scripted = torchscript_runner(tmp_path / "model.ts")
    torch.testing.assert_close(scripted(images.float()), expected, rtol=1e-4, atol=1e-5)
    assert manifest["plan"]["classes"] == ["disc", "square", "stripe"]
    assert manifest["input"]["shape"] == ["batch", 3, 40, 32]
    assert manifest["input"]["dtype"] == "uint8"
    operators = {node.op_type for node in onnx.load(str(tmp_path / "model.onnx")).graph.node}
    assert "BatchNormalization" not in operators
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_multi_label_logits_temperature_and_value_range(tmp_path: Path) -> None:
    plan = make_plan(multi_label=True, value_range=(-1000.0, 3000.0), channels=1, mean=(0.3,), std=(0.2,))
    network = warmed_network(plan)
    images = drawn_images(plan, 4).float() * 10 - 1000
    manifest = export_classifier(network, plan, tmp_path, ["onnx"], temperature=2.0)
    assert manifest["input"]["dtype"] == "float32"
    assert (manifest["output"]["activation"], manifest["output"]["temperature"]) == ("sigmoid", 2.0)
    found = onnx_runner(tmp_path / "model.onnx", 1)(images)
    expected = (probabilities(network, plan, images).logit() / 2).sigmoid()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    manifest = export_classifier(network, plan, tmp_path, ["torchscript"], probabilities=False)
    assert manifest["output"]["activation"] == "none"
    logits = torchscript_runner(tmp_path / "model.ts")(images)
    torch.testing.assert_close(logits.sigmoid(), probabilities(network, plan, images), rtol=1e-3, atol=1e-4)


def test_volumes(tmp_path: Path) -> None:
    plan = make_plan(spatial_dims=3, image_size=(16, 16, 16), channels=1, mean=(0.3,), std=(0.2,))
    manifest = export_classifier(warmed_network(plan), plan, tmp_path, ["onnx"])
    assert entry(manifest, "model.onnx")["max_difference"] < 1e-5


@pytest.mark.parametrize("symmetric", [True, False])
def test_post_training_quantisation(
    symmetric: bool, network: nn.Module, plan: ClassPlan, images: torch.Tensor, tmp_path: Path
) -> None:
    manifest = export_classifier(network, plan, tmp_path, ["onnx"], images, "ptq", symmetric)
    float_file, int8_file = entry(manifest, "model.onnx"), entry(manifest, "model_int8.onnx")
    assert (float_file["precision"], int8_file["precision"]) == ("float32", "int8")
    assert int8_file["bytes"] < 0.4 * float_file["bytes"]
    found = onnx_runner(tmp_path / "model_int8.onnx", 1)(images)
    difference = (found - probabilities(network, plan, images)).abs()
    assert 0 < difference.max() < 0.15
    assert difference.mean() < 0.02
    assert (manifest["quantize"], manifest["symmetric"], manifest["calibration_images"]) == ("ptq", symmetric, 16)
    assert manifest["compared_on"] == "16 calibration images"


@pytest.mark.parametrize("symmetric", [True, False])
def test_quantisation_aware_training(
    symmetric: bool, network: nn.Module, plan: ClassPlan, images: torch.Tensor, tmp_path: Path
) -> None:
    trained = with_fake_quantisation(copy.deepcopy(network), symmetric, **QAT_OPTIONS)
    for module in trained.modules():
        module.training = type(module).__name__ == "ObservedRange"
    trained(normalised(images, plan))
    set_quantising(trained)
    manifest = export_classifier(trained, plan, tmp_path, calibration_images=images, quantize="qat")
    expected = probabilities(trained, plan, images)
    assert (expected - probabilities(network, plan, images)).abs().max() > 1e-3  # it does round
    runs = {
        "model.ts": torchscript_runner(tmp_path / "model.ts"),
        "model_int8.onnx": onnx_runner(tmp_path / "model_int8.onnx", 1),
    }
    assert not (tmp_path / "model.onnx").exists()
    for file, run in runs.items():
        difference = (run(images) - expected).abs()
        # values at half a step may round to either side, and do so through all layers
        assert difference.mean() < 0.01, file
        assert difference.max() < 0.1, file
        assert entry(manifest, file)["agreement"] > 0.9
    graph = onnx.load(str(tmp_path / "model_int8.onnx")).graph
    producers = {name: node.op_type for node in graph.node for name in node.output}
    readers = {name: node.op_type for node in graph.node for name in node.input}
    layers = [node for node in graph.node if node.op_type == "Conv"]
    assert len(layers) == 1 + 4 * 3 + 4
    assert {producers[name] for node in layers for name in node.input[:2]} == {"DequantizeLinear"}
    if symmetric:
        assert {readers[node.output[0]] for node in layers} == {"QuantizeLinear"}


def test_score_decides_and_refused_files_have_no_manifest(
    network: nn.Module, plan: ClassPlan, images: torch.Tensor, tmp_path: Path
) -> None:
    labels = probabilities(network, plan, images).argmax(1)
    manifest = export_classifier(
        network, plan, tmp_path / "good", ["onnx"], score=lambda run: (run(images).argmax(1) == labels).float().mean()
    )
    assert manifest["network_score"] == entry(manifest, "model.onnx")["score"] == 1
    scores = iter([0.9, 0.88])
    with pytest.raises(InputError, match=r"model\.onnx: scores 0\.8800, the network 0\.9000; allowed is a drop"):
        export_classifier(network, plan, tmp_path / "bad", ["onnx"], score=lambda _: next(scores))
    assert not (tmp_path / "bad" / MANIFEST).exists()


def test_wrong_folding_is_refused(
    network: nn.Module, plan: ClassPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(module: nn.Module) -> nn.Module:
        module = copy.deepcopy(module)
        with torch.no_grad():
            module.last_linear.bias[0] += 0.01
        return module

    monkeypatch.setattr(classifier, "fold_norms", broken)
    with pytest.raises(InputError, match=r"model\.ts: differs from the network by"):
        export_classifier(network, plan, tmp_path, ["torchscript"])


def test_all_problems_at_once(network: nn.Module, plan: ClassPlan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"2 problems\n.*--export_format trt.*\n.*quantize 'int4'"):
        export_classifier(network, plan, tmp_path, ["trt"], quantize="int4")
    with pytest.raises(InputError, match=r"not among the formats.*\n.*has no calibration images"):
        export_classifier(network, plan, tmp_path, ["torchscript"], quantize="ptq")
    with pytest.raises(InputError, match=r"quantize 'qat': is for a network that was trained so"):
        export_classifier(network, plan, tmp_path, quantize="qat")
    with pytest.raises(InputError, match=r"calibration images of shape \(2, 3, 8, 8\): do not fit"):
        export_classifier(network, plan, tmp_path, calibration_images=torch.zeros(2, 3, 8, 8), quantize="ptq")
    quantised = with_fake_quantisation(copy.deepcopy(network))
    with pytest.raises(InputError, match=r"quantize 'none': does not fit a network trained with qat"):
        export_classifier(quantised, plan, tmp_path)
    assert not list(tmp_path.iterdir())


def test_missing_package_is_said_before_anything_is_written(
    network: nn.Module, plan: ClassPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"needs onnxruntime.*pip install"):
        export_classifier(network, plan, tmp_path)
    assert not list(tmp_path.iterdir())
    export_classifier(network, plan, tmp_path, ["torchscript"])
