"""MONAI's own commands on every bundle: export of a checkpoint, ONNX, and federated learning."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ckpt_export, load, load_bundle_config, onnx_export, trt_export
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, ModelType, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

from bundle_commands import MASK_RCNN, NNUNET, SE_RESNEXT, UNET_EM
from monai_ext.engines.run_protection import release_folder
from monai_ext.export.detector import Detections
from monai_ext.export.segmentation_inputs import drawn_patches
from monai_ext.export.trained_model import TrainedModel, open_model

# configs folder, fixture of a tiny training
BUNDLES: dict[str, tuple[Path, str]] = {
    "nnunet": (NNUNET, "trained"),
    "unet_em": (UNET_EM, "trained_em"),
    "se_resnext101": (SE_RESNEXT, "trained_class"),
    "mask_rcnn": (MASK_RCNN, "trained_mask"),
}
KEY_METRICS = {"nnunet": "mean_dice", "unet_em": "soft_dice", "se_resnext101": "accuracy", "mask_rcnn": "mask_ap50"}
# exporters that torch has had since before 2.9 need no onnxscript
ONNX_OPTIONS: dict[str, Any] = {"use_trace": True, "converter_kwargs": {"dynamo": False}}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """MONAI says that configs are code, and torch that TorchScript is old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.getLogger("monai").setLevel(logging.NOTSET)


@pytest.fixture(params=BUNDLES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def bundle(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A bundle with the weights of a tiny training, as it lies where somebody uses it."""
    configs, fixture = BUNDLES[name]
    run = request.getfixturevalue(fixture)[0] / "runs" / name / "phantom" / "0"
    folder = tmp_path / name
    shutil.copytree(configs.parent, folder)
    (folder / "models").mkdir()
    for file in ("model.pt", "plan.json"):
        shutil.copy(run / file, folder / "models" / file)
    return folder


def files_of(bundle: Path, *configs: str) -> dict[str, Any]:
    """Arguments that MONAI's exports share."""
    paths = [str(bundle / "configs" / config) for config in ("inference.json", *configs)]
    return {
        "meta_file": str(bundle / "configs" / "metadata.json"),
        "config_file": paths if configs else paths[0],
        "ckpt_file": str(bundle / "models" / "model.pt"),
    }


def input_of(model: TrainedModel, spatial: tuple[int, ...]) -> torch.Tensor:
    channels = model.plan.channels if model.bundle in ("se_resnext101", "mask_rcnn") else 1
    return drawn_patches(channels, spatial, count=1, seed=3)


def test_layout(name: str) -> None:
    """What MONAI's model zoo looks for in a bundle, but for the weights, which training makes."""
    configs = BUNDLES[name][0]
    root = configs.parent
    for file in ("LICENSE", "docs/README.md", "configs/train.json", "configs/inference.json", "configs/logging.conf",
                 "configs/evaluate.json", "configs/multi_gpu_train.json"):  # fmt: skip
        assert (root / file).is_file(), file
    meta = json.loads((configs / "metadata.json").read_text())
    mandatory = {
        "schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version", "task", "description",
        "required_packages_version", "authors", "copyright", "network_data_format", "name", "supported_apps",
    }  # fmt: skip
    assert mandatory <= set(meta)
    assert meta["version"] in meta["changelog"]
    assert set(meta["network_data_format"]) >= {"inputs", "outputs"}
    assert next(iter(meta["network_data_format"]["inputs"])) == "image"
    assert next(iter(meta["network_data_format"]["outputs"])) == "pred"
    infer = json.loads((configs / "inference.json").read_text())
    assert {"bundle_root", "device", "network_def", "inferer", "output_dir"} <= set(infer)
    train = json.loads((configs / "train.json").read_text())
    assert {"bundle_root", "device", "dataset_dir", "output_dir", "train", "validate"} <= set(train)
    assert isinstance(train["train"]["handlers"], list)
    assert "max_epochs" in train["train"]["trainer"]
    for file in configs.iterdir():
        assert file.stat().st_size < 2**20


def test_weights_are_loaded_by_name(name: str, bundle: Path) -> None:
    network: Any = load(name, bundle_dir=str(bundle.parent), workflow_type="inference", device="cpu")
    expected = open_model(bundle).network.state_dict()
    for key, weight in network.state_dict().items():
        torch.testing.assert_close(weight, expected[key], rtol=0, atol=0)


def test_torchscript_is_what_the_network_is(name: str, bundle: Path, tmp_path: Path) -> None:
    """Scripted; a detector, whose output is several tensors, is traced with the overlay `export.json`."""
    path = tmp_path / "exported.ts"
    if name == "mask_rcnn":
        ckpt_export(
            net_id="network_torchscript", filepath=str(path), use_trace=True,
            converter_kwargs={"check_trace": False}, **files_of(bundle, "export.json"),
        )  # fmt: skip
    else:
        ckpt_export(net_id="network_def", filepath=str(path), **files_of(bundle))
    model = open_model(bundle)
    spatial = {"nnunet": (16, 16, 16), "unet_em": (76, 76)}.get(name) or tuple(model.plan.image_size)
    x = input_of(model, spatial)
    exported = torch.jit.load(str(path))
    with torch.no_grad():
        if name == "mask_rcnn":
            compare_detections(model, x, exported(x))
        else:
            torch.testing.assert_close(exported(x), model.network(x), rtol=1e-4, atol=1e-5)
    extra = load_bundle_config(str(path), "inference.json")  # configs travel with it
    assert extra["run"] == "%inference"


def test_onnx_is_what_the_network_is(name: str, bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    path = tmp_path / "exported.onnx"
    overlay = ("export.json",) if name == "mask_rcnn" else ()
    net_id = "network_onnx" if overlay else "network_def"
    model = open_model(bundle)
    channels = 1 if name in ("nnunet", "unet_em") else model.plan.channels
    spatial = {"nnunet": (16, 16, 16), "unet_em": (76, 76)}.get(name) or tuple(model.plan.image_size)
    shape = [1, channels, *spatial]
    onnx_export(net_id=net_id, filepath=str(path), input_shape=shape, **ONNX_OPTIONS, **files_of(bundle, *overlay))
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = input_of(model, spatial)
    found = [torch.from_numpy(one) for one in session.run(None, {session.get_inputs()[0].name: x.numpy()})]
    with torch.no_grad():
        if name == "mask_rcnn":
            compare_detections(model, x, found)
        else:
            # sums in another order
            torch.testing.assert_close(found[0], model.network(x), rtol=1e-3, atol=1e-4)


def compare_detections(model: TrainedModel, x: torch.Tensor, found: Any) -> None:
    expected = model.network.detect(x, torch.tensor([x.shape[2:]]))[0]  # type: ignore[operator]
    detections = Detections(*found)
    assert len(detections.scores) == len(expected.scores)
    torch.testing.assert_close(detections.scores, expected.scores, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(detections.boxes, expected.boxes, rtol=1e-3, atol=0.05)


@pytest.mark.gpu
def test_tensorrt_where_there_is_one(bundle: Path, name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch_tensorrt")
    if name == "mask_rcnn":
        pytest.skip("a detector's file is for ONNX Runtime and TorchScript")
    path = tmp_path / "exported_trt.ts"
    trt_export(net_id="network_def", filepath=str(path), precision="fp32", **files_of(bundle))
    assert path.is_file()


@pytest.mark.parametrize(
    "name", ["mask_rcnn", *(pytest.param(name, marks=pytest.mark.long) for name in BUNDLES if name != "mask_rcnn")]
)
def test_a_client_of_federated_learning_trains_a_round(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Weights of a server go in, trained ones come out; evaluation and files of the round are there too."""
    monkeypatch.chdir(request.getfixturevalue(BUNDLES[name][1])[0])  # where the phantom lies already
    keys = {"output_dir": str(tmp_path / "run"), "device": "cpu"}
    algo = MonaiAlgo(
        bundle_root=str(BUNDLES[name][0].parent),
        local_epochs=1,
        send_weight_diff=False,
        config_train_filename=["configs/train.json", "configs/tiny.json"],
        config_evaluate_filename=["configs/train.json", "configs/tiny.json", "configs/evaluate.json"],
        train_kwargs=keys,
        eval_kwargs=keys,
        best_model_filepath=str(tmp_path / "run" / "model.pt"),
    )
    algo.initialize(extra={ExtraItems.CLIENT_NAME: "hospital"})
    try:
        start = {key: weight.clone().numpy() for key, weight in algo.get_weights().weights.items()}
        for weight in start.values():
            if weight.dtype == np.float32:
                weight *= 0.9  # so that it shows whether training began with what was sent
        sent = {key: weight.copy() for key, weight in start.items()}
        algo.train(data=ExchangeObject(weights=sent), extra={})
        trained = algo.get_weights()
        assert trained.weight_type == WeightType.WEIGHTS
        assert trained.statistics["num_executed_iterations"] == 2
        assert trained.weights.keys() == start.keys()
        moved = {
            key: float(np.abs(np.asarray(trained.weights[key], dtype=np.float64) - start[key]).max()) for key in start
        }
        assert max(moved.values()) > 0
        biggest = max(start, key=lambda key: start[key].size)
        # two steps are far less than the tenth that the weights were changed by
        assert moved[biggest] < 0.5 * np.abs(start[biggest]).max()
        metrics = algo.evaluate(data=ExchangeObject(weights=trained.weights), extra={}).metrics
        assert 0 <= metrics[KEY_METRICS[name]] <= 1
        best = algo.get_weights(extra={ExtraItems.MODEL_TYPE: ModelType.BEST_MODEL}).weights
        assert best.keys() == start.keys()
    finally:
        algo.finalize()
        release_folder(tmp_path / "run")
