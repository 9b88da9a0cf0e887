"""The packages of the extra `onnx`, or an error that says how to get them."""

from __future__ import annotations

import importlib
from typing import Any

from monai_ext.errors import InputError


def onnx_package(name: str) -> Any:
    """Import `onnx`, `onnxruntime` or a module of them.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"export to ONNX needs {name.partition('.')[0]}, which is not installed ({error}). "
            "Cure: pip install 'monai-ext[onnx]' or pip install onnx onnxruntime"
        ) from error
