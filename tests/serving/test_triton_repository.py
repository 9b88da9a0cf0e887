"""Model repositories: configurations and files fit each other, and every file computes what the network does."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from drawn_classifier import drawn_images, make_plan, warmed_network
from monai_ext.__main__ import Commands
from monai_ext.errors import InputError
from monai_ext.evaluation.postprocessing import POSTPROCESSING_FILE
from monai_ext.export.segmentation_inputs import drawn_patches
from monai_ext.export.trained_model import open_model
from monai_ext.networks.valid_unet import network_from_em_plan
from monai_ext.planning.em_plan import EmPlan
from monai_ext.serving.serving_options import ServingOptions
from monai_ext.serving.slice_predictor import SlicePredictor
from monai_ext.serving.triton_repository import write_repository
from monai_ext.serving.volume_predictor import VolumePredictor
from python_backend import answers, started
from small_segmenter import small_plan

text_format = pytest.importorskip("google.protobuf.text_format")
model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

MakeRun = Callable[..., Path]


def config_of(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


@pytest.fixture(scope="module")
def run(make_run: MakeRun) -> Path:
    folder = make_run(small_plan(), seed=3)
    (folder / POSTPROCESSING_FILE).write_text('{"keep_largest": []}')
    return folder


@pytest.fixture(scope="module")
def repository(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served") / "deep" / "repository"
    Commands().serve_repository(str(run), str(place), name="scan", backends=("onnx", "torchscript", "python"))
    return place


@pytest.fixture(scope="module")
def patches(run: Path) -> torch.Tensor:
    plan = open_model(run).plan
    return drawn_patches(plan.num_channels, plan.patch_size, 3, seed=5)


@pytest.fixture(scope="module")
def expected(run: Path, patches: torch.Tensor) -> np.ndarray:
    """Probabilities of the network itself."""
    with torch.no_grad():
        return open_model(run).network(patches).softmax(1).numpy()


def test_layout(repository: Path) -> None:
    networks = {f"scan_{b}_{o}" for b in ("onnx", "torchscript", "python") for o in ("labels", "probabilities")}
    # nothing else: a server that loads all of a repository stumbles over any folder that is no model
    assert {path.name for path in repository.iterdir()} == networks | {"scan_volume"}
    assert [path.name for path in repository.parent.iterdir()] == ["repository"]
    files = {"onnx": {"model.onnx"}, "torchscript": {"model.pt"}, "python": {"model.onnx", "model.py"}}
    for name in networks:
        assert {path.name for path in (repository / name).iterdir()} == {"config.pbtxt", "1"}
        assert {path.name for path in (repository / name / "1").iterdir()} == files[name.split("_")[1]]


def test_configurations_by_the_schema(repository: Path, run: Path) -> None:
    plan = open_model(run).plan
    backends = {"onnx": "onnxruntime", "torchscript": "pytorch", "python": "python"}
    for folder in repository.iterdir():
        config = config_of(folder)
        assert config.name == folder.name
        assert config.version_policy.latest.num_versions == 2
        if folder.name == "scan_volume":
            continue
        _, backend, output = folder.name.split("_")
        assert config.backend == backends[backend]
        assert config.max_batch_size == 4
        assert list(config.dynamic_batching.preferred_batch_size) == [2, 4]
        assert list(config.input[0].dims) == [plan.num_channels, *plan.patch_size]
        assert list(config.output[0].dims) == [1 if output == "labels" else plan.num_classes, *plan.patch_size]
        assert [warm.batch_size for warm in config.model_warmup] == [1, 4]
        assert list(config.model_warmup[0].inputs[config.input[0].name].dims) == list(config.input[0].dims)
    volume = config_of(repository / "scan_volume")
    assert (volume.backend, volume.max_batch_size) == ("python", 0)
    assert {tensor.name: list(tensor.dims) for tensor in volume.input} == {
        "image": [plan.num_channels, -1, -1, -1],
        "spacing": [3],
    }
    for name, tensor in volume.model_warmup[0].inputs.items():
        data = repository / "scan_volume" / "warmup" / tensor.input_data_file
        assert data.stat().st_size == 4 * int(np.prod(list(tensor.dims))), name


def test_onnx_files_have_the_tensors_of_their_configuration(
    repository: Path, patches: torch.Tensor, expected: np.ndarray
) -> None:
    types = {"tensor(float)": model_config_pb2.TYPE_FP32, "tensor(uint8)": model_config_pb2.TYPE_UINT8}
    for output in ("labels", "probabilities"):
        config = config_of(repository / f"scan_onnx_{output}")
        session = ort.InferenceSession(str(repository / f"scan_onnx_{output}" / "1" / "model.onnx"))
        for found, described in (
            (session.get_inputs()[0], config.input[0]),
            (session.get_outputs()[0], config.output[0]),
        ):
            assert (found.name, types[found.type]) == (described.name, described.data_type)
        assert list(session.get_inputs()[0].shape[1:]) == list(config.input[0].dims)
        assert not isinstance(session.get_inputs()[0].shape[0], int)  # the batch is free
        (result,) = session.run(None, {config.input[0].name: patches.numpy()})
        assert list(result.shape[1:]) == list(config.output[0].dims)
        check_output(output, result, expected)


def test_torchscript_files_take_and_give_what_their_configuration_says(
    repository: Path, patches: torch.Tensor, expected: np.ndarray
) -> None:
    for output in ("labels", "probabilities"):
        config = config_of(repository / f"scan_torchscript_{output}")
        assert (config.input[0].name, config.output[0].name) == ("image__0", f"{output}__0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces TorchScript's successor
            module = torch.jit.load(repository / f"scan_torchscript_{output}" / "1" / "model.pt")
        with torch.no_grad():
            result = module(patches).numpy()
        assert list(result.shape[1:]) == list(config.output[0].dims)
        check_output(output, result, expected)


def check_output(output: str, result: np.ndarray, expected: np.ndarray) -> None:
    if output == "labels":
        assert result.dtype == np.uint8
        # an untrained network has voxels between two classes
        assert (result[:, 0] == expected.argmax(1)).mean() > 0.999
        assert len(np.unique(result)) > 1
    else:
        # Winograd's products cost a digit
        np.testing.assert_allclose(result, expected, atol=1e-3)
        np.testing.assert_allclose(result.sum(1), 1, atol=1e-5)


def test_python_network_answers_each_request_of_a_batch(
    repository: Path, patches: torch.Tensor, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = repository / "scan_python_probabilities"
    model = started(folder, 1, config_of(folder), monkeypatch)
    calls = []
    session = model.session
    model.session = SimpleNamespace(run=lambda *given: calls.append(1) or session.run(*given))
    first, second = answers(model, {"image": patches[:1].numpy()}, {"image": patches[1:].numpy()})
    assert len(calls) == 1  # one batch for the network
    np.testing.assert_allclose(first.outputs["probabilities"], expected[:1], atol=1e-3)
    np.testing.assert_allclose(second.outputs["probabilities"], expected[1:], atol=1e-3)
    (failed,) = answers(model, {"image": np.zeros((1, 7, 8, 16, 16), np.float32)})
    assert "Got: 7" in str(failed.error)


def test_whole_volumes_beside_one_that_does_not_fit(
    repository: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = repository / "scan_volume"
    assert (folder / "1" / "export" / POSTPROCESSING_FILE).exists()
    model = started(folder, 1, config_of(folder), monkeypatch)
    channels = open_model(run).plan.num_channels
    random = np.random.default_rng(0)
    image = random.normal(100, 20, (channels, 13, 30, 21)).astype(np.float32)
    image.flags.writeable = False  # as the memory of a server's request
    spacing = np.array([1.5, 1, 1.2], np.float32)
    good, channel, zero = answers(
        model,
        {"image": image, "spacing": spacing},
        {"image": np.concatenate([image, image]), "spacing": spacing},
        {"image": image, "spacing": np.zeros(3, np.float32)},
    )
    expected = VolumePredictor(folder / "1").predict(image, tuple(spacing.tolist()))
    np.testing.assert_array_equal(good.outputs["labels"], expected)
    assert good.outputs["labels"].shape == image.shape[1:]
    assert len(np.unique(expected)) > 1
    assert f"has {2 * channels} channels, the model needs {channels}" in str(channel.error)
    assert channel.error.code == 3  # the request is wrong, not the server
    assert "must be three positive numbers" in str(zero.error)


def test_warm_up_volume_fits_the_model(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = repository / "scan_volume"
    config = config_of(folder)
    request = {
        name: np.fromfile(folder / "warmup" / tensor.input_data_file, np.float32).reshape(list(tensor.dims))
        for name, tensor in config.model_warmup[0].inputs.items()
    }
    (answer,) = answers(started(folder, 1, config, monkeypatch), request)
    assert answer.error is None
    assert answer.outputs["labels"].shape == request["image"].shape[1:]


def test_serving_loads_no_torch() -> None:
    modules = ("triton_pipeline", "volume_predictor", "slice_predictor", "triton_network", "triton_server")
    imports = ", ".join(f"monai_ext.serving.{module}" for module in modules)
    code = f"import sys, {imports}; print(sorted({{'torch', 'monai'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_eight_bits(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"name": "a", "backends": "onnx", "outputs": "probabilities", "max_batch_size": 1}
    scan = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).normal(100, 20, (24, 20, 12)), np.eye(4)), scan)
    Commands().serve_repository(str(run), str(tmp_path / "repository"), **options, quantize="int8", images=str(scan))
    network, volume = tmp_path / "repository" / "a_onnx_probabilities", tmp_path / "repository" / "a_volume"
    file = onnx.load(network / "1" / "model.onnx")
    assert {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in file.graph.node}
    assert started(volume, 1, config_of(volume), monkeypatch).predictor.model.precision == "int8"
    config = config_of(network)
    assert (config.max_batch_size, list(config.dynamic_batching.preferred_batch_size)) == (1, [])
    assert [warm.batch_size for warm in config.model_warmup] == [1]


def test_free_sizes_of_membranes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plan = EmPlan("Cells 2", "tile", (140, 140), (0.0, 255.0), 4, levels=3, upsampling="conv2")
    torch.save(network_from_em_plan(plan).state_dict(), tmp_path / "model.pt")
    (tmp_path / "plan.json").write_text(plan.to_json())
    model = open_model(tmp_path)
    options = ServingOptions(backends=("torchscript",), outputs=("labels",), pipeline=False)
    (fixed,) = write_repository(model, tmp_path / "fixed", options)
    assert fixed.name == "cells_2_torchscript_labels"
    assert list(config_of(fixed).output[0].dims) == [1, *plan.output_size]
    (free,) = write_repository(model, tmp_path / "free", options, dynamic=True)
    config = config_of(free)
    assert list(config.input[0].dims) == [1, -1, -1]
    assert list(config.output[0].dims) == [1, -1, -1]
    assert list(config.model_warmup[0].inputs["image__0"].dims) == [1, 140, 140]


def test_slices_of_membranes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    plan = EmPlan("cells", "tile", (92, 92), (0.0, 255.0), 4, levels=3, upsampling="conv2")
    torch.save(network_from_em_plan(plan).state_dict(), tmp_path / "model.pt")
    (tmp_path / "plan.json").write_text(plan.to_json())
    (folder,) = write_repository(open_model(tmp_path), tmp_path / "repository", ServingOptions(backends=()))
    assert folder.name == "cells_slices"
    config = config_of(folder)
    warm_up = config.model_warmup[0].inputs["image"]
    drawn = np.fromfile(folder / "warmup" / warm_up.input_data_file, np.float32).reshape(list(warm_up.dims))
    stack = np.random.default_rng(0).uniform(0, 255, (2, 95, 110)).astype(np.float32)
    model = started(folder, 1, config, monkeypatch)
    warm, good, dark = answers(model, {"image": drawn}, {"image": stack}, {"image": stack / 1e6})
    assert warm.error is None
    expected = SlicePredictor(folder / "1").predict(stack)
    np.testing.assert_array_equal(good.outputs["probabilities"], expected)
    assert expected.shape == stack.shape
    assert expected.std() > 0
    assert "do not fit the model, which was trained with 0 to 255" in str(dark.error)


def test_classifier_takes_stored_images_and_names_its_classes(tmp_path: Path) -> None:
    plan = make_plan()
    torch.save(warmed_network(plan, steps=2).state_dict(), tmp_path / "model.pt")
    (tmp_path / "plan.json").write_text(plan.to_json())
    model = open_model(tmp_path)
    (folder,) = write_repository(model, tmp_path / "repository", ServingOptions(backends=("onnx",)))
    config = config_of(folder)
    assert config.input[0].data_type == model_config_pb2.TYPE_UINT8
    assert list(config.input[0].dims) == [3, 40, 32]
    assert (config.output[0].name, list(config.output[0].dims)) == ("probabilities", [3])
    assert (folder / config.output[0].label_filename).read_text() == "disc\nsquare\nstripe\n"
    # the names of classes are of all versions too, and their number alone is in the configuration
    plan = replace(plan, classes=("square", "disc", "stripe"))
    (tmp_path / "plan.json").write_text(plan.to_json())
    with pytest.raises(InputError, match=r"classes\.txt: differs from the new version's: all versions share one"):
        write_repository(open_model(tmp_path), tmp_path / "repository", ServingOptions(backends=("onnx",), version=2))
    session = ort.InferenceSession(str(folder / "1" / "model.onnx"))
    (result,) = session.run(["probabilities"], {"image": drawn_images(plan, 2).numpy()})
    np.testing.assert_allclose(result.sum(1), 1, atol=1e-5)
