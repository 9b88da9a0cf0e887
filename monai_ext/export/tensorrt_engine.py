"""Networks as TensorRT engines: built from their ONNX form on the GPU that is to run them, and run back."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from monai_ext.atomic_files import replacing
from monai_ext.errors import InputError
from monai_ext.export.onnx_model import INPUT

DEVICE = "cuda"
ENGINE = "model.engine"
PRECISIONS = ("float32", "float16")
MAX_BATCH_SIZE = 16
CURE = "pip install tensorrt on a machine with an NVIDIA GPU, or --format onnx, which servers turn into engines too"


def tensorrt_package() -> Any:
    """Import TensorRT.

    Raises:
        InputError: it is not installed, or no GPU is here: an engine is of the GPU that built it.
    """
    try:
        package = importlib.import_module("tensorrt")
    except ImportError as error:
        raise InputError(f"--format tensorrt needs tensorrt, which is not installed ({error}). Cure: {CURE}") from error
    if DEVICE == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--format tensorrt: tensorrt is installed, but there is no CUDA device. Cure: {CURE}")
    return package


def build_engine(
    source: str | Path,
    path: str | Path,
    shape: Sequence[int],
    precision: str = "float32",
    max_batch_size: int = MAX_BATCH_SIZE,
) -> Path:
    """Build an engine of an ONNX file with one input `image` `[B, *shape]`.

    Types are those of the ONNX file where TensorRT can keep to them (from version 10 on), and TF32 is off, so that
    float32 is float32.

    Args:
        source: ONNX file with a free batch axis.
        path: of the engine.
        shape: of an input without the batch axis.
        precision: `float32` or `float16`; what the ONNX file computes in.
        max_batch_size: batches are of 1 to as many inputs.

    Raises:
        InputError: TensorRT or a GPU is missing, or TensorRT lacks an operator or cannot build the engine.
    """
    trt = tensorrt_package()
    if precision not in PRECISIONS:
        raise InputError(f"--precision {precision}: no type of engines. Cure: one of {', '.join(PRECISIONS)}")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    flags = [getattr(trt.NetworkDefinitionCreationFlag, name, None) for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED")]
    network = builder.create_network(sum(1 << int(flag) for flag in flags if flag is not None))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(source).read_bytes()):
        errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise InputError(f"{path}: TensorRT {trt.__version__} cannot read the network ({errors:.500}). Cure: {CURE}")
    config = builder.create_builder_config()
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    if precision == "float16" and flags[1] is None and hasattr(trt.BuilderFlag, "FP16"):
        config.set_flag(trt.BuilderFlag.FP16)
    profile = builder.create_optimization_profile()
    sizes = [(count, *(int(n) for n in shape)) for count in (1, max(1, max_batch_size // 2), max_batch_size)]
    profile.set_shape(INPUT, *sizes)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise InputError(f"{path}: TensorRT {trt.__version__} cannot build the engine. Cure: {CURE}")
    path = Path(path)
    with replacing(path) as partial:
        partial.write_bytes(bytes(engine))
    return path


def tensorrt_runner(path: str | Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """Load an engine and return a function from an input to its first output, which comes back on the processor.

    Raises:
        InputError: TensorRT or a GPU is missing, or the engine is of another version or GPU.
    """
    trt = tensorrt_package()
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(Path(path).read_bytes())
    if engine is None:
        raise InputError(f"{path}: is no engine of TensorRT {trt.__version__} for this GPU. Cure: export again here")
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
    types = {trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16, trt.DataType.UINT8: torch.uint8,
             trt.DataType.INT32: torch.int32}  # fmt: skip

    def run(x: torch.Tensor) -> torch.Tensor:
        x = x.detach().to(DEVICE).contiguous()
        context.set_input_shape(INPUT, tuple(x.shape))
        context.set_tensor_address(INPUT, x.data_ptr())
        found = []
        for name in outputs:
            shape = tuple(context.get_tensor_shape(name))
            found.append(torch.empty(shape, dtype=types[engine.get_tensor_dtype(name)], device=DEVICE))
            context.set_tensor_address(name, found[-1].data_ptr())
        # zeros of `x` and what it was made of must be there before the engine reads them: the same stream
        stream = torch.cuda.current_stream().cuda_stream if DEVICE == "cuda" else 0
        if not context.execute_async_v3(stream):
            raise InputError(f"{path}: TensorRT could not run the engine on {tuple(x.shape)}. Cure: a smaller batch")
        return found[0].cpu()  # waits

    return run
