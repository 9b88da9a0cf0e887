"""Requests to an inference server over HTTP: the Open Inference Protocol (KServe v2) with binary tensors.

Only Python's standard library and numpy are needed. A client has one connection and belongs to one thread.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote

import numpy as np

from monai_ext.errors import InputError

_TYPES = {"float32": "FP32", "uint8": "UINT8", "uint16": "UINT16"}
_LENGTH = "Inference-Header-Content-Length"
TIMEOUT_S = 300.0


class TritonClient:
    """Sends arrays to a model and gives back what it answers.

    Args:
        address: `host:port` of the server's HTTP service.
        timeout_s: seconds to wait for an answer.

    Example:
        >>> with TritonClient("localhost:8000") as client:
        ...     labels = client.infer("hippocampus_onnx_labels", {"image": patches})["labels"]
    """

    def __init__(self, address: str, timeout_s: float = TIMEOUT_S) -> None:
        self.address = address.removeprefix("http://").rstrip("/")
        try:
            self._connection = http.client.HTTPConnection(self.address, timeout=timeout_s)
        except http.client.InvalidURL as error:
            raise InputError(f"{address}: {error}. Cure: host:port, such as localhost:8000") from error

    def __enter__(self) -> TritonClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._connection.close()

    def ready(self) -> bool:
        """Whether the server and all its models can answer; False too where no server listens."""
        try:
            return self._request("GET", "/v2/health/ready")[0] == 200
        except InputError:
            return False

    def metadata(self, model: str, version: int = 0) -> dict[str, Any]:
        """What the model takes and gives: `versions`, `inputs`, `outputs` with name, datatype and shape.

        Raises:
            InputError: no server, or it has no such model.
        """
        return json.loads(self._checked("GET", _place(model, version), b"", {})[1])

    def config(self, model: str, version: int = 0) -> dict[str, Any]:
        """The model's configuration as the server completed it."""
        return json.loads(self._checked("GET", f"{_place(model, version)}/config", b"", {})[1])

    def statistics(self, model: str) -> dict[str, Any]:
        """The server's counters of a model: requests, executions, nanoseconds in queue and computing."""
        return json.loads(self._checked("GET", f"{_place(model, 0)}/stats", b"", {})[1])["model_stats"][0]

    def infer(self, model: str, inputs: Mapping[str, np.ndarray], version: int = 0) -> dict[str, np.ndarray]:
        """One request.

        Args:
            model: name in the server's repository.
            inputs: by name, float32, uint8 or uint16; with the batch axis where the server batches.
            version: 0 takes the newest.

        Returns:
            Outputs by name.

        Raises:
            InputError: the server cannot be reached, or refuses the request; with its reason.
        """
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        described = [
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": _TYPES[str(array.dtype)],
                "parameters": {"binary_data_size": array.nbytes},
            }
            for name, array in arrays.items()
        ]
        header = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
        body = b"".join([header, *(array.tobytes() for array in arrays.values())])
        length, answer = self._checked("POST", f"{_place(model, version)}/infer", body, {_LENGTH: str(len(header))})
        length = length or len(answer)
        outputs, at = {}, length
        for entry in json.loads(answer[:length])["outputs"]:
            dtype = next(name for name, word in _TYPES.items() if word == entry["datatype"])
            size = entry["parameters"]["binary_data_size"]
            outputs[entry["name"]] = np.frombuffer(answer[at : at + size], dtype).reshape(entry["shape"])
            at += size
        return outputs

    def _checked(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        status, length, answer = self._request(method, path, body, headers)
        if status != 200:
            try:
                reason = str(json.loads(answer)["error"])
            except (ValueError, KeyError, TypeError):
                reason = answer[:200].decode(errors="replace") or http.client.responses.get(status, str(status))
            raise InputError(f"{self.address}{path}: the server answers {status}: {reason.strip()}")
        return length, answer

    def _request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, int, bytes]:
        for attempt in (0, 1):
            reused = self._connection.sock is not None
            try:
                self._connection.request(method, path, body, dict(headers or {}))
                response = self._connection.getresponse()
                return response.status, int(response.headers.get(_LENGTH, 0)), response.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                # servers end connections that were idle; a new one is made, once
                if attempt or not reused or isinstance(error, TimeoutError):
                    raise InputError(
                        f"{self.address}: no answer ({type(error).__name__}: {error}). Cure: start tritonserver with "
                        "--model-repository, and give the port of its HTTP service"
                    ) from error
        raise AssertionError


def _place(model: str, version: int) -> str:
    return f"/v2/models/{quote(model, safe='')}" + (f"/versions/{version}" if version else "")
