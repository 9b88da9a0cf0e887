"""A whole volume, or stack of slices, in and its segmentation out, inside of Triton's Python backend.

The repository's `model.py` imports a class from here as `TritonPythonModel`. The server's Python needs this package,
numpy, scipy, nibabel and onnxruntime; torch is not loaded.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.errors import InputError
from monai_ext.serving.triton_tensors import array_of, tensor_of

EXPORT_FOLDER = "export"
IMAGE, SPACING, LABELS, PROBABILITIES = "image", "spacing", "labels", "probabilities"


class _Pipeline:
    """What the Python backend calls; one segmentation a request.

    An image that does not fit the model gets the reason as an error, the others of the same call their answers.
    """

    output = LABELS

    def initialize(self, args: dict[str, str]) -> None:
        """Load the export beside `model.py`; Triton shows what is wrong with it and marks the model as not ready."""
        self._backend: Any = import_module("triton_python_backend_utils")  # exists inside of the server only
        parameters = {k: v["string_value"] for k, v in json.loads(args["model_config"])["parameters"].items()}
        self.predictor = self._open(
            Path(args["model_repository"]) / args["model_version"] / EXPORT_FOLDER,
            providers=parameters["providers"],
            threads=int(parameters["threads"]) or None,
            precision=parameters["precision"],
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, in order."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        backend = self._backend
        try:
            result = self._predict(request)
        except InputError as error:
            return backend.InferenceResponse(error=backend.TritonError(str(error), backend.TritonError.INVALID_ARG))
        return backend.InferenceResponse([tensor_of(backend, self.output, result)])

    def _input(self, request: Any, name: str) -> np.ndarray:
        return array_of(self._backend.get_input_tensor_by_name(request, name))

    def _open(self, folder: Path, **options: Any) -> Any:
        raise NotImplementedError

    def _predict(self, request: Any) -> np.ndarray:
        raise NotImplementedError


class VolumePipeline(_Pipeline):
    """`image` `[C, D, H, W]` and `spacing` `[3]`, float32, to `labels` `[D, H, W]`, of the bundle nnunet.

    Axes are (z, y, x) in canonical orientation, the spacing is in mm, as `VolumePredictor.predict` says.
    """

    def _open(self, folder: Path, **options: Any) -> Any:
        from monai_ext.serving.volume_predictor import VolumePredictor

        return VolumePredictor(folder, **options)

    def _predict(self, request: Any) -> np.ndarray:
        spacing = tuple(self._input(request, SPACING).ravel().tolist())
        return self.predictor.predict(self._input(request, IMAGE), spacing)


class SlicesPipeline(_Pipeline):
    """`image` `[N, H, W]` float32, grey values of the file, to `probabilities` `[N, H, W]` float32 (0 is membrane), of
    the bundle unet_em; see `SlicePredictor.predict`.
    """

    output = PROBABILITIES

    def _open(self, folder: Path, **options: Any) -> Any:
        from monai_ext.serving.slice_predictor import SlicePredictor

        return SlicePredictor(folder, **options)

    def _predict(self, request: Any) -> np.ndarray:
        return np.asarray(self.predictor.predict(self._input(request, IMAGE)), np.float32)
