"""A network whose forward pass is a session of ONNX Runtime, for inferers and engines made for torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from monai_ext.errors import InputError
from monai_ext.serving.onnx_session import open_session

OUTPUTS = ("logits", "probabilities")
TYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(uint8)": torch.uint8,
}
LEAST_PROBABILITY = 1e-30  # its logarithm is finite, and no class with it is ever chosen


class OnnxNetwork(nn.Module):
    """Runs an ONNX file with one input `[B, C, *S]` as if it were the network it was made of.

    Batches of any size are taken: of a file with a fixed batch they are cut and filled up. Arrays travel through the
    memory of the processor, also to and from a GPU.

    Args:
        path: ONNX file.
        providers: `cpu`, `cuda` or `tensorrt`, what the runtime computes on.
        threads: of the processor, per operator; 0 takes as many as torch.
        output: what the file gives: `logits`, or `probabilities`, whose logarithms are returned (of `multi_label`, log
            odds): logits up to a constant per voxel, which neither a softmax nor an average of windows notices. Empty
            takes the name of the file's output if that is one of them, otherwise `logits`.
        temperature: by which the file divides logits before its softmax; they are multiplied by it again.
        multi_label: probabilities exclude one another only where this is False.
        device_index: of the GPU.

    Attributes:
        path: of the file.
        channels: of the input, 0 where free.
        classes: channels of the output, 0 where free.
        spatial_size: of the input, empty where an axis is free.

    Raises:
        InputError: onnxruntime or the provider is not installed, the file cannot be read, asks for operators that the
            runtime does not have, or gives label maps.
    """

    def __init__(
        self,
        path: str | Path,
        providers: str = "cpu",
        threads: int = 0,
        output: str = "",
        temperature: float = 1.0,
        multi_label: bool = False,
        device_index: int = 0,
    ) -> None:
        super().__init__()
        self.path = Path(path)
        self.temperature = temperature
        self.multi_label = multi_label
        self._session = open_session(self.path, providers, threads or torch.get_num_threads(), device_index)
        source, result = _ends(self.path, self._session)
        self._name, self._type = source.name, TYPES[source.type]
        sizes = [size if isinstance(size, int) else 0 for size in source.shape]
        self.batch, self.channels = sizes[0], sizes[1]
        self.spatial_size = tuple(sizes[2:]) if all(sizes[2:]) else ()
        self.spatial_dims = len(sizes) - 2
        self.classes = result.shape[1] if len(result.shape) > 1 and isinstance(result.shape[1], int) else 0
        self.output = output or (result.name if result.name in (*OUTPUTS, "labels") else "logits")
        if self.output not in OUTPUTS:
            raise InputError(
                f"{self.path}: gives {self.output}, which cannot be averaged over windows and views. "
                "Cure: export with --output logits, or probabilities"
            )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map `[B, C, *S]` on any device to logits there, `[B, K, *S']` or `[B, K]`, float32.

        Integer inputs of the file get rounded values.

        Raises:
            InputError: the file takes images of another shape.
            torch.OutOfMemoryError: the runtime ran out of memory.
        """
        self._check(image)
        x = image.detach()
        if x.dtype != self._type:
            x = x.to(self._type) if self._type.is_floating_point else x.round().clamp(0, 255).to(self._type)
        arrays = x.cpu().contiguous().numpy()
        size = self.batch or len(arrays)
        parts = [self._run(arrays[first : first + size], size) for first in range(0, len(arrays), size)]
        y = torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))
        return self._logits(y.float()).to(image.device)

    def _run(self, images: np.ndarray, size: int) -> np.ndarray:
        count = len(images)
        if count < size:
            images = np.concatenate([images, np.repeat(images[-1:], size - count, axis=0)])
        try:
            found = self._session.run(None, {self._name: images})[0]
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            text = str(error).lower()
            if "out of memory" in text or "failed to allocate" in text or "bad_alloc" in text:
                # what inferers answer with smaller batches
                raise torch.OutOfMemoryError(str(error)) from error
            raise
        return np.asarray(found)[:count]

    def _logits(self, y: torch.Tensor) -> torch.Tensor:
        if self.output == "logits":
            logits = y
        elif self.multi_label:
            logits = torch.logit(y, eps=1e-7)
        else:
            logits = y.clamp_min(LEAST_PROBABILITY).log_()
        return logits if self.temperature == 1.0 else logits * self.temperature

    def _check(self, image: torch.Tensor) -> None:
        wanted = [self.channels, *(self.spatial_size or [0] * self.spatial_dims)]
        given = list(image.shape[1:])
        if len(given) == len(wanted) and all(w in (0, g) for w, g in zip(wanted, given, strict=True)):
            return
        shown = ["any" if size == 0 else size for size in wanted]
        if self.channels not in (0, image.shape[1]):
            cure = f"images with {self.channels} channels, or the file of another model"
        else:
            cure = "windows of that size, or export with --dynamic True"
        raise InputError(f"{self.path}: takes images of shape {shown}, got {given}. Cure: {cure}")

    def extra_repr(self) -> str:
        """Shown by `print`."""
        return f"{self.path}, {self._session.get_providers()[0]}"


def _ends(path: Path, session: Any) -> tuple[Any, Any]:
    """The one input and the first output of a file."""
    sources = session.get_inputs()
    if len(sources) != 1 or sources[0].type not in TYPES or len(sources[0].shape) < 3:
        found = ", ".join(f"{source.name} {source.type} {source.shape}" for source in sources)
        raise InputError(f"{path}: takes {found}. Cure: a file with one input of images, [B, C, *S]")
    return sources[0], session.get_outputs()[0]
