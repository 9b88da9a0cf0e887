"""TensorRT by a stand-in that answers as its Python package does and computes with ONNX Runtime."""

from __future__ import annotations

import ctypes
import enum
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from drawn_classifier import make_plan, warmed_network
from monai_ext.errors import InputError
from monai_ext.export import tensorrt_engine
from monai_ext.export.classifier import export_classifier
from monai_ext.export.export_command import export_model
from monai_ext.export.manifest import read_manifest
from monai_ext.export.onnx_model import INPUT, export_onnx
from monai_ext.export.tensorrt_engine import build_engine, tensorrt_package, tensorrt_runner
from monai_ext.networks.valid_unet import network_from_em_plan
from monai_ext.planning.em_plan import EmPlan

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")
MARK = b"engine of "


class Names(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1
    TF32 = 7
    INPUT = 20
    OUTPUT = 21
    FLOAT = 0
    HALF = 1
    INT32 = 3
    UINT8 = 5


class StandIn(ModuleType):
    """Notes what is asked for; an engine is the ONNX file behind a mark."""

    __version__ = "10.0.stand-in"
    NetworkDefinitionCreationFlag = BuilderFlag = TensorIOMode = DataType = Names

    def __init__(self, refuses: bool = False) -> None:
        super().__init__("tensorrt")
        self.__spec__ = ModuleSpec("tensorrt", None)
        self.refuses = refuses
        self.asked: dict[str, Any] = {}

    class Logger:
        ERROR = 1

        def __init__(self, level: int) -> None:
            assert level == self.ERROR

    def Builder(self, _: Any) -> Any:  # noqa: N802 - TensorRT's names
        return Builder(self)

    def OnnxParser(self, network: dict[str, bytes], _: Any) -> Any:  # noqa: N802
        return Parser(self, network)

    def Runtime(self, _: Any) -> Any:  # noqa: N802
        return Runtime()


class Builder:
    def __init__(self, package: StandIn) -> None:
        self.asked = package.asked

    def create_network(self, flags: int) -> dict[str, bytes]:
        self.asked["flags"] = flags
        return {}

    def create_builder_config(self) -> Any:
        return self

    def create_optimization_profile(self) -> Any:
        return self

    def clear_flag(self, flag: int) -> None:
        self.asked["cleared"] = flag

    def set_shape(self, name: str, *sizes: tuple[int, ...]) -> None:
        self.asked[name] = sizes

    def add_optimization_profile(self, profile: Any) -> None:
        assert profile is self

    def build_serialized_network(self, network: dict[str, bytes], config: Any) -> bytes | None:
        return MARK + network["onnx"] if config is self and not self.asked.get("no engine") else None


class Parser:
    num_errors = 2

    def __init__(self, package: StandIn, network: dict[str, bytes]) -> None:
        self.package, self.network = package, network

    def parse(self, content: bytes) -> bool:
        self.network["onnx"] = content
        return not self.package.refuses

    def get_error(self, index: int) -> str:
        return f"no operator {index}"


class Runtime:
    def deserialize_cuda_engine(self, content: bytes) -> Any:
        return Engine(content.removeprefix(MARK)) if content.startswith(MARK) else None


class Engine:
    """Engine and context in one; tensors are given by address, as on a GPU."""

    num_io_tensors = 2

    def __init__(self, content: bytes) -> None:
        self.session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
        self.names = [self.session.get_inputs()[0].name, self.session.get_outputs()[0].name]
        self.address: dict[str, int] = {}

    def create_execution_context(self) -> Engine:
        return self

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> int:
        return Names.INPUT if name == self.names[0] else Names.OUTPUT

    def get_tensor_dtype(self, name: str) -> int:
        return Names.FLOAT

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        assert name == INPUT
        self.shape = shape
        kind = np.uint8 if "uint8" in self.session.get_inputs()[0].type else np.float32
        self.result = self.session.run(None, {name: np.zeros(shape, kind)})[0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.result.shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.address[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        kind: Any = np.uint8 if "uint8" in self.session.get_inputs()[0].type else np.float32
        size = int(np.prod(self.shape)) * np.dtype(kind).itemsize
        values = np.frombuffer((ctypes.c_uint8 * size).from_address(self.address[INPUT]), dtype=kind)
        found = self.session.run(None, {INPUT: values.reshape(self.shape)})[0]
        ctypes.memmove(self.address[self.names[1]], np.ascontiguousarray(found).ctypes.data, found.nbytes)
        return True


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    standing_in = StandIn()
    monkeypatch.setitem(sys.modules, "tensorrt", standing_in)
    monkeypatch.setattr(tensorrt_engine, "DEVICE", "cpu")
    return standing_in


def test_engine_of_a_layer(package: StandIn, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(2, 3, 3)
    x = torch.randn(5, 2, 6, 7)
    source = export_onnx(layer, tmp_path / "layer.onnx", x[:1])
    build_engine(source, tmp_path / "layer.engine", x.shape[1:], max_batch_size=8)
    assert package.asked["flags"] == 0b11  # explicit batch, and types as in the file
    assert package.asked["cleared"] == Names.TF32
    assert package.asked[INPUT] == ((1, 2, 6, 7), (4, 2, 6, 7), (8, 2, 6, 7))
    run = tensorrt_runner(tmp_path / "layer.engine")
    for batch in (x, x[:2]):
        torch.testing.assert_close(run(batch), layer(batch).detach(), rtol=1e-5, atol=1e-5)
    (tmp_path / "layer.engine").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"layer\.engine: is no engine of TensorRT 10\.0"):
        tensorrt_runner(tmp_path / "layer.engine")


def test_what_tensorrt_refuses(package: StandIn, tmp_path: Path) -> None:
    source = export_onnx(torch.nn.ReLU(), tmp_path / "layer.onnx", torch.zeros(1, 2))
    with pytest.raises(InputError, match="--precision bfloat16: no type of engines"):
        build_engine(source, tmp_path / "layer.engine", (2,), "bfloat16")
    package.asked["no engine"] = True
    with pytest.raises(InputError, match="cannot build the engine"):
        build_engine(source, tmp_path / "layer.engine", (2,))
    package.refuses = True
    with pytest.raises(InputError, match=r"cannot read the network .no operator 0; no operator 1"):
        build_engine(source, tmp_path / "layer.engine", (2,))
    assert not (tmp_path / "layer.engine").exists()


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_segmentation_network(precision: str, package: StandIn, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plan = EmPlan("cells", "tile", (140, 140), (0.0, 255.0), 4, levels=3, upsampling="conv2")
    (tmp_path / "plan.json").write_text(plan.to_json())
    torch.save(network_from_em_plan(plan).state_dict(), tmp_path / "model.pt")
    export_model(tmp_path, "tensorrt", tmp_path / "out", precision=precision)
    manifest = read_manifest(tmp_path / "out")
    assert [(entry["file"], entry["format"]) for entry in manifest["artefacts"]] == [("model.engine", "tensorrt")]
    assert manifest["versions"]["tensorrt"] == StandIn.__version__
    assert not (tmp_path / "out" / "model.onnx").exists()
    with pytest.raises(InputError, match="--dynamic True: does not go with tensorrt"):
        export_model(tmp_path, "tensorrt", tmp_path / "other", dynamic=True)


def test_classifier(package: StandIn, tmp_path: Path) -> None:
    plan = make_plan()
    manifest = export_classifier(warmed_network(plan), plan, tmp_path, ["tensorrt"])
    entry = manifest["artefacts"][0]
    assert (entry["file"], entry["agreement"]) == ("model.engine", 1)
    # an engine that computes something else is refused
    package.OnnxParser = lambda network, _: Parser(package, other(network))  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"model\.engine: differs from the network"):
        export_classifier(warmed_network(plan), plan, tmp_path / "other", ["tensorrt"])
    assert not (tmp_path / "other" / "manifest.json").exists()


def other(network: dict[str, bytes]) -> dict[str, bytes]:
    """As the network, but the sign of the last layer of what is put into it is turned."""

    class Turned(dict[str, bytes]):
        def __setitem__(self, name: str, content: bytes) -> None:
            model = onnx.load_model_from_string(content)
            weights = [one for one in model.graph.initializer if one.name.endswith("last_linear.weight")]
            assert weights
            for one in weights:
                one.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(one), one.name))
            network[name] = model.SerializeToString()

    return Turned()


def test_missing_package_and_missing_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(InputError, match=r"needs tensorrt, which is not installed.*Cure: pip install tensorrt"):
        export_classifier(warmed_network(plan), plan, tmp_path, ["tensorrt", "torchscript"])
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "tensorrt", StandIn())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="there is no CUDA device"):
        tensorrt_package()
