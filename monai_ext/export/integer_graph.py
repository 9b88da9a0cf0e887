"""An ONNX file with QuantizeLinear and DequantizeLinear pairs, rewritten so that layers are computed in integers.

PyTorch's exporter writes what quantisation-aware training computed, ONNX Runtime's quantisation what it calibrated:
inputs and weights of a layer pass a pair. Runtimes take a layer for an integer one only where its output is quantised
directly as well, and a traced file still holds its float weights. Neither rewriting changes a result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.atomic_files import replacing
from monai_ext.export.onnx_packages import onnx_package

LAYERS = ("Conv", "Gemm", "MatMul")
# rounding in steps that have zero as a level commutes with them
MONOTONE = ("Relu", "MaxPool")


def write_integer_graph(source: str | Path, path: str | Path) -> int:
    """Read an ONNX file with such pairs and write it with integer weights and outputs quantised earlier.

    Returns:
        Number of layers whose output is quantised directly.

    Raises:
        InputError: onnx is not installed.
    """
    onnx = onnx_package("onnx")
    model = onnx.load(str(source))
    graph = _Graph(model.graph, onnx)
    graph.constants_to_initialisers()
    graph.drop_identities()
    graph.store_integer_weights()
    count = graph.quantise_outputs()
    graph.drop_unused()
    with replacing(path) as partial:
        onnx.save(model, str(partial))
        onnx.checker.check_model(str(partial))
    return count


class _Graph:
    """Names of a graph, kept while it is rewritten."""

    def __init__(self, graph: Any, onnx: Any) -> None:
        self.graph = graph
        self.onnx = onnx

    def _arrays(self) -> dict[str, np.ndarray]:
        return {tensor.name: self.onnx.numpy_helper.to_array(tensor) for tensor in self.graph.initializer}

    def _consumers(self) -> dict[str, list[Any]]:
        consumers: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in node.input:
                consumers.setdefault(name, []).append(node)
        return consumers

    def constants_to_initialisers(self) -> None:
        """Constant nodes hold the steps; as initialisers they can be read and compared."""
        for node in [node for node in self.graph.node if node.op_type == "Constant"]:
            value = [attribute.t for attribute in node.attribute if attribute.name == "value"]
            if value:
                value[0].name = node.output[0]
                self.graph.initializer.append(value[0])
                self.graph.node.remove(node)

    def drop_identities(self) -> None:
        """The exporter lets layers share equal constants through Identity nodes, which hide them."""
        given = {tensor.name for tensor in self.graph.initializer}
        sources = {
            node.output[0]: node.input[0]
            for node in self.graph.node
            if node.op_type == "Identity" and node.input[0] in given
        }
        for node in list(self.graph.node):
            if node.output[0] in sources and node.op_type == "Identity":
                self.graph.node.remove(node)
                continue
            for place, name in enumerate(node.input):
                node.input[place] = sources.get(name, name)

    def store_integer_weights(self) -> None:
        """QuantizeLinear of a weight becomes the int8 weight."""
        arrays = self._arrays()
        for node in [node for node in self.graph.node if node.op_type == "QuantizeLinear"]:
            if not all(name in arrays for name in node.input):
                continue
            values, steps, zeros = (arrays[name] for name in node.input)
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            if steps.ndim:
                shape = [-1 if axis == k else 1 for k in range(values.ndim)]
                steps, zeros = steps.reshape(shape), zeros.reshape(shape)
            limits = np.iinfo(zeros.dtype)
            # halves to even, as the operator and torch round
            levels = np.clip(np.rint(values / steps) + zeros, limits.min, limits.max).astype(zeros.dtype)
            self.graph.initializer.append(self.onnx.numpy_helper.from_array(levels, node.output[0]))
            self.graph.node.remove(node)

    def quantise_outputs(self) -> int:
        """Pairs behind layers whose output reaches a QuantizeLinear through operators that commute with rounding."""
        arrays = self._arrays()
        producers = {name: node for node in self.graph.node for name in node.output}
        consumers = self._consumers()
        count = 0
        for layer in [node for node in self.graph.node if node.op_type in LAYERS]:
            inputs = [producers.get(name) for name in layer.input[:2]]
            if any(node is None or node.op_type != "DequantizeLinear" for node in inputs):
                continue
            tensor = layer.output[0]
            followers = consumers.get(tensor, [])
            while len(followers) == 1 and followers[0].op_type in MONOTONE:
                tensor = followers[0].output[0]
                followers = consumers.get(tensor, [])
            if not followers or any(node.op_type != "QuantizeLinear" for node in followers):
                continue
            steps = {tuple(arrays[name].tobytes() for name in node.input[1:]) for node in followers}
            if len(steps) > 1:
                continue
            count += 1
            if tensor != layer.output[0]:
                self._insert_pair(layer, followers[0].input[1:], consumers)
        return count

    def _insert_pair(self, layer: Any, step_and_zero: Any, consumers: dict[str, list[Any]]) -> None:
        output = layer.output[0]
        levels, rounded = f"{output}_levels", f"{output}_rounded"
        quantise = self.onnx.helper.make_node("QuantizeLinear", [output, *step_and_zero], [levels])
        dequantise = self.onnx.helper.make_node("DequantizeLinear", [levels, *step_and_zero], [rounded])
        for node in consumers[output]:
            for place, name in enumerate(node.input):
                if name == output:
                    node.input[place] = rounded
        place = list(self.graph.node).index(layer) + 1
        self.graph.node.insert(place, quantise)
        self.graph.node.insert(place + 1, dequantise)

    def drop_unused(self) -> None:
        """Initialisers nobody reads: the float weights."""
        used = {name for node in self.graph.node for name in node.input}
        for tensor in [tensor for tensor in self.graph.initializer if tensor.name not in used]:
            self.graph.initializer.remove(tensor)
