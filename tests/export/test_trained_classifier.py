"""`python -m monai_ext export` of a classifier: pictures, temperature, 16 bits, and refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from drawn_classifier import drawn_images, normalised
from monai_ext.errors import InputError
from monai_ext.evaluation.calibration import CALIBRATION_FILE, Temperature
from monai_ext.export.classifier import QAT_OPTIONS
from monai_ext.export.export_command import export_model
from monai_ext.export.manifest import read_manifest
from monai_ext.export.onnx_model import onnx_runner
from monai_ext.export.torchscript import torchscript_runner
from monai_ext.networks.fake_quantisation import set_quantising, with_fake_quantisation
from monai_ext.planning.class_plan import ClassPlan

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(network: nn.Module, plan: ClassPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training's folder, with a temperature, and pictures in `pictures`."""
    folder = tmp_path_factory.mktemp("classifier") / "run"
    (folder / "pictures").mkdir(parents=True)
    (folder / "plan.json").write_text(plan.to_json())
    torch.save(network.state_dict(), folder / "model.pt")
    Temperature(2.0, 6, 1.0, 0.9).save(folder / CALIBRATION_FILE)
    for number, image in enumerate(drawn_images(plan, 6)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "pictures" / f"{number}.png")
    return folder


def expected(network: nn.Module, plan: ClassPlan, images: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    with torch.no_grad():
        return (network(normalised(images, plan)) / temperature).softmax(1)


def test_files_and_eight_bits(run: Path, network: nn.Module, plan: ClassPlan, tmp_path: Path, capsys: Any) -> None:
    export_model(run, "torchscript,onnx", tmp_path / "out", images=run / "pictures", quantize="int8")
    manifest = read_manifest(tmp_path / "out")
    assert manifest["bundle"] == "se_resnext101"
    assert [entry["file"] for entry in manifest["artefacts"]] == ["model.ts", "model.onnx", "model_int8.onnx"]
    assert manifest["compared_on"] == "6 calibration images"
    images = drawn_images(plan, 16)
    assert manifest["output"]["temperature"] == 2
    wanted = expected(network, plan, images, 2.0)
    torch.testing.assert_close(torchscript_runner(tmp_path / "out" / "model.ts")(images), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(onnx_runner(tmp_path / "out" / "model.onnx")(images), wanted, rtol=1e-4, atol=1e-5)
    assert "network latency ms" in capsys.readouterr().out


def test_half_precision_and_logits(run: Path, network: nn.Module, plan: ClassPlan, tmp_path: Path) -> None:
    export_model(run, "torchscript,onnx", tmp_path / "out", precision="float16", output="logits")
    images = drawn_images(plan, 16)
    with torch.no_grad():
        wanted = network(normalised(images, plan)) / 2
    for found in (torchscript_runner(tmp_path / "out" / "model.ts"), onnx_runner(tmp_path / "out" / "model.onnx")):
        assert 0 < (found(images) - wanted).abs().max() < 2e-2 * wanted.abs().max()  # three digits


def test_network_trained_with_quantisation(run: Path, network: nn.Module, plan: ClassPlan, tmp_path: Path) -> None:
    trained = with_fake_quantisation(copy.deepcopy(network), True, skip=QAT_OPTIONS["skip"], norms=QAT_OPTIONS["norms"])
    for module in trained.modules():
        module.training = type(module).__name__ == "ObservedRange"
    trained(normalised(drawn_images(plan, 8), plan))
    set_quantising(trained)
    (tmp_path / "plan.json").write_text(plan.to_json())
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    export_model(tmp_path, "onnx", images=run / "pictures")
    assert [entry["file"] for entry in read_manifest(tmp_path / "export")["artefacts"]] == ["model_int8.onnx"]


def test_refusals(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)--quantize int4: is not known.*--output labels: is not known for"):
        export_model(run, "onnx", tmp_path / "out", quantize="int4", output="labels")
    with pytest.raises(InputError, match=r"--quantize int8: has no images for the ranges.*Cure: --images"):
        export_model(run, "onnx", tmp_path / "out", quantize="int8")
    with pytest.raises(InputError, match=r"(?s)--precision bfloat16: has no ONNX"):
        export_model(run, "onnx", tmp_path / "out", precision="bfloat16")
    with pytest.raises(InputError, match="--dynamic: no option of the export of se_resnext101"):
        export_model(run, "onnx", tmp_path / "out", dynamic=True)
    (run / "pictures" / "broken.png").write_bytes(b"no picture")
    try:
        with pytest.raises(InputError, match=r"broken\.png"):
            export_model(run, "onnx", tmp_path / "out", images=run / "pictures")
    finally:
        (run / "pictures" / "broken.png").unlink()
    assert not (tmp_path / "out").exists()
