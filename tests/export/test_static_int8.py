"""Post-training quantisation by ONNX Runtime."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from monai_ext.errors import InputError
from monai_ext.export.onnx_model import export_onnx, onnx_runner
from monai_ext.export.static_int8 import quantise_statically

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


class Small(nn.Module):
    """Normalisation before the first layer, as in a deployed network."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers((x.float() - 128) / 64 + 0.1)


@pytest.fixture
def source(tmp_path: Path) -> Callable[[], tuple[Path, Small]]:
    def make() -> tuple[Path, Small]:
        torch.manual_seed(0)
        module = Small()
        return export_onnx(module, tmp_path / "float.onnx", torch.zeros(1, 2, 8, 8, dtype=torch.uint8)), module

    return make


def batches(count: int = 3) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randint(0, 256, (5, 2, 8, 8), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("symmetric", [True, False])
def test_outputs_are_near_and_weights_in_8_bits(symmetric: bool, source: Callable, tmp_path: Path) -> None:
    path, module = source()
    level = logging.getLogger().level
    assert quantise_statically(path, tmp_path / "int8.onnx", batches(), symmetric) == 15
    assert logging.getLogger().level == level
    x = next(batches())
    with torch.no_grad():
        expected = module(x)
    found = onnx_runner(tmp_path / "int8.onnx", 1)(x)
    difference = (found - expected).abs().max()
    assert 0 < difference < 0.05 * (expected.max() - expected.min())
    graph = onnx.load(str(tmp_path / "int8.onnx")).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert {a.dtype.name for a in arrays.values() if a.ndim > 1} == {"int8"}
    zeros = {arrays[n.input[2]].dtype.name for n in graph.node if n.op_type == "QuantizeLinear"}
    assert zeros == {"int8" if symmetric else "uint8"}
    pairs = [n for n in graph.node if n.op_type == "DequantizeLinear"]
    kernels = [n for n in pairs if arrays.get(n.input[0], np.zeros(0)).ndim == 4]
    assert [arrays[n.input[1]].shape for n in kernels] == [(8,), (8,)]
    # normalisation stays in float: what is rounded first is the first layer's input
    while_running = [n.op_type for n in graph.node if n.op_type != "DequantizeLinear"]
    assert while_running[:5] == ["Cast", "Sub", "Div", "Add", "QuantizeLinear"]


def test_symmetric_layers_have_rounded_outputs(source: Callable, tmp_path: Path) -> None:
    path, _ = source()
    quantise_statically(path, tmp_path / "int8.onnx", batches(), symmetric=True)
    nodes = list(onnx.load(str(tmp_path / "int8.onnx")).graph.node)
    readers = {name: node.op_type for node in nodes for name in node.input}
    after = Counter(readers[node.output[0]] for node in nodes if node.op_type == "Conv")
    assert after == {"QuantizeLinear": 2}


def test_bad_input(source: Callable, tmp_path: Path) -> None:
    path, _ = source()
    with pytest.raises(InputError, match=r"calibration images: there are none\. Cure"):
        quantise_statically(path, tmp_path / "int8.onnx", [])
    with pytest.raises(InputError, match=r"calibration method 'mean': is not known\. Cure: one of minmax"):
        quantise_statically(path, tmp_path / "int8.onnx", batches(), method="mean")
    assert [file.name for file in tmp_path.iterdir()] == ["float.onnx"]
