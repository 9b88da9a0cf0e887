"""Networks as ONNX files, and running them."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from monai_ext.atomic_files import replacing
from monai_ext.errors import InputError
from monai_ext.export.onnx_packages import onnx_package

OPSET = 17  # all of the networks' operators; runtimes of 2022 and later read it
OPSETS = range(16, 21)  # from RoiAlign with half pixels on, to the last one of torch's exporter by tracing
INPUT, OUTPUT = "image", "output"


def export_onnx(
    module: nn.Module,
    path: str | Path,
    example: torch.Tensor,
    output: str | Mapping[str, str] = OUTPUT,
    dynamic_axes: Sequence[int] = (0,),
    opset: int = OPSET,
) -> Path:
    """Write a network in evaluation mode with one input, `image`, and one output or several.

    PyTorch's exporter by tracing is used: it is in all versions from 2.11 on, needs no package besides onnx, and
    writes fake quantisation as QuantizeLinear and DequantizeLinear.

    Args:
        module: on the CPU; its mode is restored.
        path: ends in `.onnx`.
        example: input `[B, ...]`; its type is the input's type in the file.
        output: name of the output; or names of several, each with what its first axis counts, whose size is free.
        dynamic_axes: axes of the input whose size is free; the batch, also of a single output, is axis 0.
        opset: version of the operators.

    Raises:
        InputError: onnx is not installed, or its exporter does not know the version of the operators.
    """
    onnx = onnx_package("onnx")
    if opset not in OPSETS:
        raise InputError(
            f"--opset {opset}: operators of that version are not written. Cure: {OPSETS[0]} to {OPSETS[-1]}"
        )
    path = Path(path)
    axes = {axis: "batch" if axis == 0 else f"size{axis}" for axis in dynamic_axes}
    outputs = {output: "batch"} if isinstance(output, str) else dict(output)
    free = {name: {0: counted} for name, counted in outputs.items()} if axes or not isinstance(output, str) else {}
    if axes:
        free[INPUT] = axes
    was_training = module.training
    module.eval()
    try:
        with replacing(path) as partial, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # torch's own, about its other exporter and about traced shapes
            torch.onnx.export(
                module,
                (example,),
                str(partial),
                dynamo=False,
                input_names=[INPUT],
                output_names=list(outputs),
                dynamic_axes=free or None,
                opset_version=opset,
            )
            onnx.checker.check_model(str(partial))
    finally:
        module.train(was_training)
    return path


def onnx_runner(path: str | Path, threads: int = 0) -> Callable[[torch.Tensor], torch.Tensor]:
    """Load a file into ONNX Runtime and return a function from an input to its output, on the CPU.

    Args:
        path: of the file.
        threads: 0: as many as the runtime chooses.

    Raises:
        InputError: onnxruntime is not installed.
    """
    run_all = onnx_runner_of_all(path, threads)

    def run(x: torch.Tensor) -> torch.Tensor:
        return run_all(x)[0]

    return run


def onnx_runner_of_all(path: str | Path, threads: int = 0) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """As `onnx_runner`, for files with several outputs: all of them, in their order.

    Raises:
        InputError: onnxruntime is not installed.
    """
    runtime = onnx_package("onnxruntime")
    options: Any = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; warnings are about the file's unused initialisers
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(x: torch.Tensor) -> list[torch.Tensor]:
        found = session.run(None, {name: x.detach().cpu().numpy()})
        return [torch.from_numpy(np.asarray(value)) for value in found]

    return run
