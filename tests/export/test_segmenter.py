"""Export of segmentation networks: files that give what the network gives, and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from monai_ext.errors import InputError
from monai_ext.export.deployed_segmenter import DeployedSegmenter
from monai_ext.export.export_command import export_model
from monai_ext.export.manifest import read_manifest
from monai_ext.export.onnx_model import onnx_runner
from monai_ext.export.segmentation_inputs import _windows, drawn_patches, em_tiles_of
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
    voxels = np.random.default_rng(0).normal(100, 20, (24, 20, 12)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "scan.nii.gz")
    export_model(run, "torchscript,onnx", tmp_path / "out", quantize="int8", images=tmp_path / "scan.nii.gz")
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


@pytest.mark.parametrize("geometry", ["tile", "resize"])
def test_slices_of_a_stack_are_scaled_and_spread(geometry: str, tmp_path: Path) -> None:
    plan = EmPlan("cells", geometry, (140, 140), (0.0, 255.0), 4, levels=3, upsampling="conv2")
    # each slice has one grey value, which scaling maps from [0, 255] to [-1, 1]
    first, *others = [Image.new("L", (160, 200), value) for value in (0, 51, 255)]
    first.save(tmp_path / "stack.tif", save_all=True, append_images=others)
    tiles = em_tiles_of(plan, tmp_path / "stack.tif", 6)
    assert tiles.shape == (3 if geometry == "resize" else 6, 1, 140, 140)
    middles = tiles[:, 0, 70, 70].unique(sorted=True)
    torch.testing.assert_close(middles, torch.tensor([-1.0, -0.6, 1.0]))


def test_larger_difference_than_allowed_leaves_no_manifest(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.onnx: differs from the network by .*allowed"):
        export_model(run, "onnx", tmp_path / "out", precision="float16", tolerance=1e-9)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_export_that_fails_leaves_the_earlier_one(run: Path, tmp_path: Path) -> None:
    export_model(run, "torchscript", tmp_path / "out")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    with pytest.raises(InputError, match=r"model\.ts: differs"):
        export_model(run, "torchscript", tmp_path / "out", overwrite=True, precision="float16", tolerance=1e-9)
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def test_one_patch_is_enough(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture, or a volume of one slice, of a 2D model gives no second one; its name is kept out of the manifest."""
    one = drawn_patches(1, small_plan().patch_size, 1)
    monkeypatch.setattr("monai_ext.export.segmenter.patches_of", lambda *_: one)
    seen: set[int] = set()
    forward = DeployedSegmenter.forward

    def noted(self: DeployedSegmenter, image: torch.Tensor) -> torch.Tensor:
        seen.add(int(image.shape[0]))
        return forward(self, image)

    monkeypatch.setattr(DeployedSegmenter, "forward", noted)
    export_model(run, "onnx", tmp_path / "out", images="jane_doe.nii.gz")
    assert seen == {1, 2}  # so that a fixed batch size is noticed
    manifest = (tmp_path / "out" / "manifest.json").read_text()
    assert '"1 patches of the given images"' in manifest
    assert "jane_doe" not in manifest


@pytest.mark.parametrize("opset", [5, 15, 21, 99])
def test_unknown_operator_sets(run: Path, tmp_path: Path, opset: int) -> None:
    with pytest.raises(InputError, match=f"--opset {opset}: operators of that version .* Cure: 16 to 20"):
        export_model(run, "onnx", tmp_path / "out", opset=opset)


def test_refusals(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        export_model(run, "onnx,keras", tmp_path / "out", precision="bfloat16", quantize="int4", output="boxes")
    message = str(caught.value)
    for part in ("--format onnx,keras", "--precision bfloat16", "--quantize int4", "--output boxes"):
        assert part in message
    with pytest.raises(InputError, match="--quantize int8: has no images for the ranges"):
        export_model(run, "onnx", tmp_path / "out", quantize="int8")
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


def test_weights_that_are_no_numbers(run: Path, tmp_path: Path) -> None:
    """A training that diverged: every format would hold it, and label maps of nothing look like healthy tissue."""
    weights = torch.load(run / "model.pt", weights_only=True)
    first, second = list(weights)[:2]
    weights[first][0] = torch.nan
    weights[second][0] = torch.inf
    torch.save(weights, tmp_path / "model.pt")
    (tmp_path / "plan.json").write_text((run / "plan.json").read_text())
    with pytest.raises(InputError, match=f"{first} and 1 more: values that are not finite.* Cure:"):
        export_model(tmp_path, "packed", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_patches_are_spread_over_a_scan() -> None:
    """Not all from a corner, where a scan shows air."""
    ramp = torch.arange(100.0).reshape(1, 1, 1, 100)
    patches = _windows(ramp, (1, 2, 20), 3)
    assert [float(patch[0, 0, 0, 0]) for patch in patches] == [20, 40, 60]
    assert all(patch.shape == (1, 1, 2, 20) for patch in patches)
