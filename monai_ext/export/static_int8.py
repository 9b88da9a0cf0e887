"""Post-training quantisation of an ONNX file to 8 bits by ONNX Runtime."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from monai_ext.atomic_files import replacing
from monai_ext.errors import InputError
from monai_ext.export.integer_graph import LAYERS, write_integer_graph
from monai_ext.export.onnx_packages import onnx_package

# layers that 8-bit kernels exist for and gain; normalisation, gates and softmax stay in float
OPERATORS = ("Conv", "Gemm", "MatMul", "MaxPool", "Add", "Relu")
METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


class _Batches:
    """What ONNX Runtime reads calibration data from: `get_next` until None."""

    def __init__(self, name: str, batches: Iterable[torch.Tensor]) -> None:
        self.name = name
        self.batches: Iterator[torch.Tensor] = iter(batches)
        self.images = 0

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        if batch is None:
            return None
        self.images += len(batch)
        return {self.name: batch.detach().cpu().numpy()}


def quantise_statically(
    source: str | Path,
    path: str | Path,
    batches: Iterable[torch.Tensor],
    symmetric: bool = True,
    method: str = "minmax",
    operators: Sequence[str] = OPERATORS,
    exclude: Sequence[str] = (),
    reduce_range: bool = False,
) -> int:
    """Write an 8-bit form of an ONNX file, in the form of QuantizeLinear and DequantizeLinear pairs.

    Weights are symmetric int8 with a step per output channel. Activations have one step per tensor, from the ranges
    that the batches give: int8 around zero where `symmetric`, which accelerators ask for, otherwise uint8 over the
    range as it is, which has twice the levels behind a ReLU and is what ONNX Runtime computes fastest on x86.

    Args:
        source: float ONNX file.
        path: to write.
        batches: inputs `[B, ...]` of the type the file takes, like those the network was trained on.
        symmetric: see above.
        method: how ranges come from values: `minmax`, `entropy` or `percentile`; the last two hold all activations of
            all batches in memory.
        operators: ONNX operators to quantise.
        exclude: names of nodes that stay in float, besides those before the first layer, which normalise.
        reduce_range: 7 bits for weights. x86 processors without VNNI (before 2019) add products of 8 bits in 16 bits,
            which can overflow unnoticed.

    Returns:
        Number of images that the ranges come from.

    Raises:
        InputError: onnx or onnxruntime is not installed, the method is unknown, or there are no batches.
    """
    if method not in METHODS:
        raise InputError(f"calibration method {method!r}: is not known. Cure: one of {', '.join(METHODS)}")
    onnx = onnx_package("onnx")
    tools = onnx_package("onnxruntime.quantization")
    model = onnx.load(str(source))
    reader = _Batches(model.graph.input[0].name, batches)
    activations = tools.QuantType.QInt8 if symmetric else tools.QuantType.QUInt8
    with replacing(path) as partial, _quiet():
        try:
            tools.quantize_static(
                str(source),
                str(partial),
                reader,
                quant_format=tools.QuantFormat.QDQ,
                op_types_to_quantize=list(operators),
                nodes_to_exclude=[*_before_first_layer(model), *exclude],
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=activations,
                weight_type=tools.QuantType.QInt8,
                calibrate_method=tools.CalibrationMethod[METHODS[method]],
                extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
            )
        except ValueError as error:
            if reader.images == 0:
                raise InputError(
                    "calibration images: there are none. Cure: give some hundred images of the training set"
                ) from error
            raise
        # around zero, a ReLU between layer and rounding would keep the layer in float
        write_integer_graph(partial, partial)
    return reader.images


def _before_first_layer(model: Any) -> list[str]:
    nodes = list(model.graph.node)  # in the order of their dependence
    layers = [place for place, node in enumerate(nodes) if node.op_type in LAYERS]
    return [node.name for node in nodes[: layers[0]]] if layers else []


class _quiet:  # noqa: N801 - a context manager, used as a function
    """ONNX Runtime advises through the root logger to optimise the file first; folding norms has done that."""

    def __enter__(self) -> None:
        self.level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)

    def __exit__(self, *_: Any) -> None:
        logging.getLogger().setLevel(self.level)
