"""ONNX files as networks: equal to what they were made of, in any batch, and refusals of what cannot be run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from monai_ext.errors import InputError
from monai_ext.export.deployed_segmenter import DeployedSegmenter
from monai_ext.export.onnx_model import export_onnx
from monai_ext.inferers.onnx_network import OnnxNetwork
from monai_ext.inferers.window_inferer import WindowInferer
from monai_ext.serving.onnx_session import PROVIDERS

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv3d(2, 6, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv3d(6, 3, 3, padding=1))
    return layers.eval().requires_grad_(False)


@pytest.fixture
def volume() -> torch.Tensor:
    return torch.randn(1, 2, 17, 20, 14, generator=torch.Generator().manual_seed(1))


def exported(network: nn.Module, path: Path, output: str = "logits", free: Sequence[int] = (0,)) -> Path:
    return export_onnx(DeployedSegmenter(network, output), path, torch.zeros(2, 2, 8, 8, 8), output, free)


@pytest.mark.parametrize("free", [(), (0,), (0, 2, 3, 4)])
def test_batches_of_any_size(network: nn.Module, tmp_path: Path, free: tuple[int, ...]) -> None:
    """Of a file with a batch of 2 the third call holds one window and a copy of it."""
    found = OnnxNetwork(exported(network, tmp_path / "model.onnx", free=free))
    assert (found.batch, found.channels, found.spatial_size) == (
        0 if free else 2,
        2,
        () if len(free) > 1 else (8, 8, 8),
    )
    for count in (1, 2, 5):
        x = torch.randn(count, 2, 8, 8, 8, generator=torch.Generator().manual_seed(count))
        # float32 sums in another order
        torch.testing.assert_close(found(x), network(x), rtol=1e-4, atol=1e-5)
    x = x.double()
    assert found(x).dtype == torch.float32
    torch.testing.assert_close(found(x), network(x.float()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_windows_give_the_same_logits_and_labels(
    network: nn.Module, volume: torch.Tensor, tmp_path: Path, output: str
) -> None:
    """Logarithms of probabilities differ from logits by a constant per voxel and window, which blending keeps one."""
    found = OnnxNetwork(exported(network, tmp_path / "model.onnx", output))
    inferer = WindowInferer((8, 8, 8), 3, mirror_axes=(0, 2))
    with torch.no_grad():
        expected, logits = inferer(volume, network), inferer(volume, found)
        assert (logits - expected).std(1).max() < 1e-4
        torch.testing.assert_close(logits.softmax(1), expected.softmax(1), rtol=1e-3, atol=1e-5)
        labels, right = inferer.segment(volume, found), inferer.segment(volume, network)
    assert right.unique().numel() == 3
    assert (labels == right).float().mean() > 0.999  # ties in float32


@pytest.mark.parametrize("multi_label", [False, True])
def test_temperature_is_taken_back(tmp_path: Path, multi_label: bool) -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = self.head(x.float().mean((2, 3)) / 100) / 2.5
            return logits.sigmoid() if multi_label else logits.softmax(1)

    torch.manual_seed(0)
    classifier = Classifier().eval()
    images = torch.randint(0, 256, (3, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    path = export_onnx(classifier, tmp_path / "model.onnx", images, "probabilities")
    found = OnnxNetwork(path, temperature=2.5, multi_label=multi_label)
    with torch.no_grad():
        logits = classifier.head(images.float().mean((2, 3)) / 100)
        # a resized picture has fractions, the file takes bytes
        outputs = found(images), found(images.float() + 0.3)
    for output in outputs:
        difference = output - logits
        if not multi_label:
            difference = difference - difference.mean(1, keepdim=True)
        assert difference.abs().max() < 1e-4


def test_threads(network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = exported(network, tmp_path / "model.onnx")

    def chosen(threads: int) -> int:
        return OnnxNetwork(path, threads=threads)._session.get_session_options().intra_op_num_threads

    assert chosen(3) == 3
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert chosen(0) == 2


def test_label_maps_are_refused(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gives labels, which cannot be averaged"):
        OnnxNetwork(exported(network, tmp_path / "model.onnx", "labels"))


def test_images_of_another_shape_are_refused(network: nn.Module, tmp_path: Path) -> None:
    found = OnnxNetwork(exported(network, tmp_path / "model.onnx"))
    with pytest.raises(InputError, match=r"takes images of shape \[2, 8, 8, 8\], got \[1, 8, 8, 8\].*2 channels"):
        found(torch.zeros(1, 1, 8, 8, 8))
    with pytest.raises(InputError, match=r"got \[2, 8, 8, 9\].*--dynamic True"):
        found(torch.zeros(1, 2, 8, 8, 9))


@pytest.mark.parametrize("providers", ["cuda", "tensorrt"])
def test_providers_that_are_not_installed(
    network: nn.Module, tmp_path: Path, providers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    path = exported(network, tmp_path / "model.onnx")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(InputError, match=rf"--providers {providers}: onnxruntime has CPU.*pip install onnxruntime-gpu"):
        OnnxNetwork(path, providers)
    # listed, but its libraries are missing: the runtime falls back in silence
    everything = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: everything)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given: list[Any] = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, providers: (given.append(providers), session)[1])
    with pytest.raises(InputError, match=rf"--providers {providers}: onnxruntime cannot load its libraries"):
        OnnxNetwork(path, providers, device_index=1)
    assert given[0][0] == (PROVIDERS[providers][0], {"device_id": "1"})
    assert given[0][-1] == "CPUExecutionProvider"


def test_unknown_provider_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--providers openvino: is not known\. Cure: one of cpu, cuda, tensorrt"):
        OnnxNetwork(tmp_path / "model.onnx", "openvino")
    with pytest.raises(InputError, match=r"model\.onnx: does not exist"):
        OnnxNetwork(tmp_path / "model.onnx")


@pytest.mark.parametrize("damage", ["half", "empty", "operators", "operator set"])
def test_files_that_cannot_be_run(network: nn.Module, tmp_path: Path, damage: str) -> None:
    path = exported(network, tmp_path / "model.onnx")
    content = path.read_bytes()
    if damage == "half":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        model = onnx.load(str(path))
        if damage == "operators":
            model.graph.node[0].op_type = "Convolve"
        else:
            model.opset_import[0].version = 999
        onnx.save(model, str(path))
    said = r"asks for operators that .*--opset" if "operator" in damage else "cannot be run by .*Cure: export it again"
    with pytest.raises(InputError, match=rf"model\.onnx: {said}"):
        OnnxNetwork(path)


def test_memory_that_runs_out_is_told_as_torch_tells_it(
    network: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What inferers halve their batches upon; other errors stay what they are."""
    found = OnnxNetwork(exported(network, tmp_path / "model.onnx"))
    session, most = found._session, 2

    def run(names: Any, feed: dict[str, np.ndarray]) -> Any:
        if len(feed["image"]) > most:
            raise RuntimeError("BFCArena: Failed to allocate memory for requested buffer")
        return session.run(names, feed)

    found._session = SimpleNamespace(run=run, get_providers=session.get_providers)
    x = torch.randn(1, 2, 16, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad(), caplog.at_level("WARNING"):
        logits = WindowInferer((8, 8, 8), 4)(x, found)
        torch.testing.assert_close(logits, WindowInferer((8, 8, 8), 4)(x, network), rtol=1e-4, atol=1e-5)
    assert "out of memory on cpu with 4 windows per call: going on with 2" in caplog.text

    def broken(*_: Any) -> Any:
        raise RuntimeError("another fault")

    found._session = SimpleNamespace(run=broken, get_providers=session.get_providers)
    with pytest.raises(RuntimeError, match="another fault"):
        found(x[..., :8, :8, :8])
