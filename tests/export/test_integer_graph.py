"""Traced fake quantisation with integer weights and layers that runtimes compute in integers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monai_ext.export.integer_graph import write_integer_graph
from monai_ext.export.onnx_model import export_onnx, onnx_runner
from monai_ext.networks.fake_quantisation import fixed_quantisation, with_fake_quantisation

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


def traced(folder: Path, symmetric: bool) -> tuple[Path, nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(),
        nn.Conv2d(8, 8, 1), nn.Sigmoid(), nn.Flatten(), nn.Linear(8 * 25, 4),
    )  # fmt: skip
    with_fake_quantisation(network, symmetric)
    x = torch.randn(6, 3, 16, 16)
    network(x)
    fixed = fixed_quantisation(network)
    return export_onnx(fixed, folder / "traced.onnx", x[:1]), fixed, x


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def plain_run(path: Path) -> Any:
    """Without any rewriting by the runtime: what the file itself says."""
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("symmetric", [True, False])
def test_rewriting_changes_no_result(symmetric: bool, tmp_path: Path) -> None:
    source, fixed, x = traced(tmp_path, symmetric)
    layers = write_integer_graph(source, tmp_path / "integer.onnx")
    assert layers == 2  # a sigmoid follows the third, nothing the last
    before = plain_run(source).run(None, {"image": x.numpy()})[0]
    after = plain_run(tmp_path / "integer.onnx").run(None, {"image": x.numpy()})[0]
    assert (before == after).all()
    # torch sums in another order; where that crosses half a step, one level of 255 changes
    torch.testing.assert_close(onnx_runner(tmp_path / "integer.onnx", 1)(x), fixed(x), rtol=0.02, atol=0.02)


def test_weights_are_stored_in_8_bits(tmp_path: Path) -> None:
    source, _, _ = traced(tmp_path, symmetric=True)
    write_integer_graph(source, tmp_path / "integer.onnx")
    kept = onnx.load(str(tmp_path / "integer.onnx")).graph.initializer
    shapes = {tuple(tensor.dims): tensor.data_type for tensor in kept if len(tensor.dims) > 1}
    assert set(shapes) == {(8, 3, 3, 3), (8, 4, 3, 3), (8, 8, 1, 1), (4, 200)}
    assert set(shapes.values()) == {onnx.TensorProto.INT8}
    # four inputs and two outputs are rounded while running
    assert operators(tmp_path / "integer.onnx")["QuantizeLinear"] == 4 + 2
    assert operators(source)["QuantizeLinear"] == 4 + 4


@pytest.mark.parametrize("symmetric", [True, False])
def test_runtime_computes_in_integers(symmetric: bool, tmp_path: Path) -> None:
    source, _, _ = traced(tmp_path, symmetric)
    write_integer_graph(source, tmp_path / "integer.onnx")
    found = {}
    for path in (source, tmp_path / "integer.onnx"):
        options = runtime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 4
        runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found[path.name] = operators(tmp_path / "optimised.onnx")["QLinearConv"]
    assert found["integer.onnx"] == 2
    # with a range from zero on, the runtime finds out by itself that rounding does what the ReLU does
    assert found["traced.onnx"] == (0 if symmetric else 2)


def test_output_with_another_reader_stays(tmp_path: Path) -> None:
    """Rounding earlier would change what the other reader gets."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, 1, 1)
            self.second = nn.Conv2d(1, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            return self.second(torch.relu(y)) + y

    network = with_fake_quantisation(Twice())
    x = torch.randn(2, 1, 4, 4)
    network(x)
    source = export_onnx(fixed_quantisation(network), tmp_path / "traced.onnx", x)
    assert write_integer_graph(source, tmp_path / "integer.onnx") == 0
    assert operators(tmp_path / "integer.onnx")["QuantizeLinear"] == 2
