"""Export of segmentation networks: files that give what the network gives, and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_ext.errors import InputError
from monai_ext.export.export_command import export_model
from monai_ext.export.manifest import read_manifest
from monai_ext.export.onnx_model import onnx_runner
from monai_ext.export.segmentation_inputs import drawn_patches
from monai_ext.export.torchscript import torchscript_runner
from monai_ext.export.trained_model import open_model
from monai_ext.networks.plan_unet import network_from_plan
from monai_ext.networks.valid_unet import network_from_em_plan
from monai_ext.planning.em_plan import EmPlan
from monai_ext.planning.plan import Plan

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
BUNDLES = Path(__file__).parents[2] / "bundles"


def small_plan() -> Plan:
    plan = Plan.load(BUNDLES / "nnunet" / "configs" / "default_plan.json")
    levels = 3
    return replace(
        plan,
        patch_size=(8, 16, 16),
        strides=plan.strides[:levels],
        kernels=plan.kernels[:levels],
        features=(4, 8, 8),
    )


def saved(folder: Path, plan: Any, network: torch.nn.Module) -> Path:
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(plan.to_json())
    torch.save(network.state_dict(), folder / "model.pt")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    plan = small_plan()
    return saved(tmp_path_factory.mktemp("export") / "run", plan, network_from_plan(plan, deep_supervision=False))


@pytest.fixture(scope="module")
def em_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    plan = EmPlan("cells", "tile", (140, 140), (0.0, 255.0), 4, levels=3, upsampling="conv2")
    return saved(tmp_path_factory.mktemp("export") / "em", plan, network_from_em_plan(plan))


def test_files_give_what_the_network_gives(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_model(run, "torchscript,onnx", tmp_path / "out", quantize="int8")
    model = open_model(run / "model.pt")
    assert model.bundle == "nnunet"
    x = drawn_patches(model.plan.num_channels, model.plan.patch_size, 2, seed=5)
    with torch.no_grad():
        expected = model.network(x)
    # float32 sums in another order; Winograd's products cost a digit more
    torch.testing.assert_close(torchscript_runner(tmp_path / "out" / "model.ts")(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(onnx_runner(tmp_path / "out" / "model.onnx")(x), expected, rtol=1e-3, atol=1e-3)
    integer = onnx_runner(tmp_path / "out" / "model_int8.onnx")(x)
    assert 0 < (integer - expected).abs().mean() < 0.1 * expected.abs().max()
    manifest = read_manifest(tmp_path / "out")
    assert [entry["file"] for entry in manifest["artefacts"]] == ["model.ts", "model_int8.onnx", "model.onnx"]
    assert manifest["input"]["shape"] == ["batch", model.plan.num_channels, *model.plan.patch_size]
    assert "network latency ms" in capsys.readouterr().out


def test_free_sizes_and_label_maps(run: Path, tmp_path: Path) -> None:
    export_model(run, "torchscript,onnx", tmp_path / "out", output="labels", dynamic=True)
    model = open_model(run)
    x = drawn_patches(model.plan.num_channels, (16, 24, 16), 3, seed=5)
    with torch.no_grad():
        expected = model.network(x).argmax(1, keepdim=True)
    for found in (
        torchscript_runner(tmp_path / "out" / "model.ts")(x),
        onnx_runner(tmp_path / "out" / "model.onnx")(x),
    ):
        assert found.dtype == torch.uint8
        # an untrained network has voxels between two classes
        assert (found == expected).float().mean() > 0.999


def test_membranes_in_half_precision(em_run: Path, tmp_path: Path) -> None:
    export_model(em_run, "onnx", tmp_path / "out", precision="float16", output="probabilities")
    model = open_model(em_run)
    x = drawn_patches(1, model.plan.input_size, 1, seed=5).clamp(-1, 1)
    with torch.no_grad():
        expected = model.network(x).softmax(1)
    found = onnx_runner(tmp_path / "out" / "model.onnx")(x)
    assert found.shape == (1, 2, *model.plan.output_size)
    assert 0 < (found - expected).abs().max() < 1e-2  # three digits


def test_larger_difference_than_allowed_leaves_no_manifest(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.onnx: differs from the network by .*allowed"):
        export_model(run, "onnx", tmp_path / "out", precision="float16", tolerance=1e-9)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_refusals(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        export_model(run, "onnx,keras", tmp_path / "out", precision="bfloat16", quantize="int4", output="boxes")
    message = str(caught.value)
    for part in ("--format onnx,keras", "--precision bfloat16", "--quantize int4", "--output boxes"):
        assert part in message
    export_model(run, "torchscript", tmp_path / "out")
    with pytest.raises(InputError, match="holds an export already"):
        export_model(run, "torchscript", tmp_path / "out")
    export_model(run, "torchscript", tmp_path / "out", overwrite=True)


def test_models_that_cannot_be_opened(run: Path, em_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_model(tmp_path / "nowhere")
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "model.pt").write_bytes((run / "model.pt").read_bytes())
    with pytest.raises(InputError, match=r"no plan\.json beside it"):
        open_model(tmp_path / "lost")
    (tmp_path / "lost" / "plan.json").write_text((em_run / "plan.json").read_text())
    with pytest.raises(InputError, match="do not fit the network of the plan"):
        open_model(tmp_path / "lost")
    (tmp_path / "lost" / "plan.json").write_text("{}")
    with pytest.raises(InputError, match="is the plan of none of nnunet, unet_em"):
        open_model(tmp_path / "lost")
    with pytest.raises(InputError, match="no model: neither"):
        open_model(BUNDLES / "unet_em")
