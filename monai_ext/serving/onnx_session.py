"""A session of ONNX Runtime for an exported file, opened without torch."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_ext.errors import InputError

# key -> ONNX Runtime's names; operators that one lacks are left to those behind it
PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
MOST_THREADS = 1024  # more than processors have; the runtime would be busy with starting them for hours
# how a file asks for more than the installed runtime has, in the runtime's words
_UNKNOWN_OPERATORS = re.compile(
    r"Opset \d+ is under development|No Op registered for|is not a registered function/op"
    r"|Could not find an implementation|Unsupported model IR version"
)


def open_session(path: str | Path, providers: str = "cpu", threads: int = 0, device_index: int = 0) -> Any:
    """Open a file.

    Args:
        path: of the ONNX file.
        providers: `cpu`, `cuda` or `tensorrt`, what the runtime computes on.
        threads: of the processor, per operator; 0 takes OMP_NUM_THREADS, or as many as this process may use.
        device_index: of the GPU.

    Returns:
        `onnxruntime.InferenceSession`.

    Raises:
        InputError: the runtime or the provider is not installed, the file is missing or damaged, or it asks for
            operators that the runtime does not have.
    """
    path = Path(path)
    if providers not in PROVIDERS:
        raise InputError(f"--providers {providers}: is not known. Cure: one of {', '.join(PROVIDERS)}")
    if not 0 <= threads <= MOST_THREADS:
        raise InputError(f"threads {threads}: must be from 0 to {MOST_THREADS}. Cure: 0 takes as many as there are")
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"{path}: needs onnxruntime, which is not installed ({error}). "
            "Cure: pip install 'monai-ext[onnx]' or pip install onnxruntime"
        ) from error
    wanted = PROVIDERS[providers]
    available = onnxruntime.get_available_providers()
    if wanted[0] not in available:
        raise InputError(_no_provider(providers, f"has {', '.join(available)} only"))
    if not path.is_file():
        raise InputError(f"{path}: does not exist. Cure: python -m monai_ext export RUN --format onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or _threads()
    options.log_severity_level = 3  # errors; warnings are about the file's unused initialisers
    on_gpu = {"device_id": str(device_index)}
    chosen: Sequence[Any] = [name if name == "CPUExecutionProvider" else (name, on_gpu) for name in wanted]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=list(chosen))
    except Exception as error:  # ONNX Runtime's errors have no base of their own
        reason = " ".join(str(error).split())
        if unknown := _UNKNOWN_OPERATORS.search(reason):
            raise InputError(
                f"{path}: asks for operators that onnxruntime {onnxruntime.__version__} does not have "
                f"({reason[unknown.start() :][:200]}). Cure: a newer onnxruntime, or export again with --opset 17"
            ) from error
        raise InputError(
            f"{path}: cannot be run by onnxruntime {onnxruntime.__version__} ({reason[:300]}). Cure: export it again"
        ) from error
    # without the provider's libraries the runtime takes the next one and says so in its log only
    if session.get_providers()[0] != wanted[0]:
        raise InputError(_no_provider(providers, "cannot load its libraries"))
    return session


def _threads() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given):
        return int(given)
    affinity = getattr(os, "sched_getaffinity", None)  # not on Windows and macOS
    return len(affinity(0)) if affinity is not None else 0


def _no_provider(providers: str, reason: str) -> str:
    needs = {"cuda": "CUDA and cuDNN", "tensorrt": "CUDA, cuDNN and TensorRT"}.get(providers, "its libraries")
    return (
        f"--providers {providers}: onnxruntime {reason}. Cure: --providers cpu, or pip install onnxruntime-gpu in "
        f"place of onnxruntime, with {needs} of the versions it asks for"
    )
