"""What Triton's Python backend hands to a model, in this process."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


class Tensor:
    """A tensor that can be reached by DLPack alone, as one of a server built for another numpy must be."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    @staticmethod
    def from_dlpack(name: str, value: Any) -> tuple[str, np.ndarray]:
        return name, np.from_dlpack(value)


class TritonError(Exception):
    """What a response holds in place of tensors."""

    INVALID_ARG = 3

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class InferenceResponse:
    """Outputs by name, or an error."""

    def __init__(self, output_tensors: Any = (), error: TritonError | None = None) -> None:
        self.outputs = dict(output_tensors)
        self.error = error


def backend_module() -> ModuleType:
    module: Any = ModuleType("triton_python_backend_utils")
    module.Tensor, module.TritonError, module.InferenceResponse = Tensor, TritonError, InferenceResponse
    module.get_input_tensor_by_name = lambda request, name: Tensor(request[name])
    return module


def started(folder: Path, version: int, config: Any, patch: pytest.MonkeyPatch) -> Any:
    """The model of a repository's folder, loaded from its `model.py` and initialised as the server does."""
    patch.setitem(sys.modules, "triton_python_backend_utils", backend_module())
    spec = importlib.util.spec_from_file_location("model", folder / str(version) / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    content = {
        "input": [{"name": tensor.name} for tensor in config.input],
        "output": [{"name": tensor.name} for tensor in config.output],
        "parameters": {k: {"string_value": v.string_value} for k, v in config.parameters.items()},
    }
    model.initialize(
        {"model_config": json.dumps(content), "model_repository": str(folder), "model_version": str(version)}
    )
    return model


def answers(model: Any, *requests: Mapping[str, np.ndarray]) -> list[InferenceResponse]:
    """What the model says to requests that come together."""
    return model.execute(list(requests))
