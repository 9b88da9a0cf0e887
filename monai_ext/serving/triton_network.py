"""An exported network inside of Triton's Python backend, for servers without the backends of ONNX and TorchScript."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.serving.onnx_session import open_session
from monai_ext.serving.triton_tensors import array_of, tensor_of

MODEL_FILE = "model.onnx"


class BatchedNetwork:
    """What the Python backend calls: `[B, C, *S]` in, what the network gives out.

    Requests that the server hands over together are one batch for the network.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Open `model.onnx` beside `model.py`."""
        self._backend: Any = import_module("triton_python_backend_utils")  # exists inside of the server only
        config = json.loads(args["model_config"])
        parameters = {k: v["string_value"] for k, v in config["parameters"].items()}
        self.input, self.output = config["input"][0]["name"], config["output"][0]["name"]
        file = Path(args["model_repository"]) / args["model_version"] / MODEL_FILE
        self.session = open_session(file, parameters["providers"], int(parameters["threads"]))
        self.source = self.session.get_inputs()[0].name

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, in order; sizes are the same, the server puts no others together."""
        backend = self._backend
        parts = [array_of(backend.get_input_tensor_by_name(request, self.input)) for request in requests]
        try:
            (result,) = self.session.run(None, {self.source: np.concatenate(parts)})
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            reason = " ".join(str(error).split())[:300]
            return [backend.InferenceResponse(error=backend.TritonError(reason)) for _ in requests]
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return [
            backend.InferenceResponse([tensor_of(backend, self.output, part)])
            for part in np.split(np.asarray(result), ends)
        ]
