"""Pictures of the first validation outputs, for TensorBoard and for the end of a training."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from monai.utils.enums import CommonKeys

from monai_ext.engines.run_protection import RunPlan
from monai_ext.evaluation.membrane_picture import compose_membranes
from monai_ext.evaluation.overlay_picture import compose_overlay
from monai_ext.preprocessing.slice_resize import resized


class ValidationPicture(Protocol):
    """Keeps what is worth drawing of a validation."""

    def forget(self) -> None:
        """A validation begins."""

    def keep(self, output: dict[str, Any]) -> None:
        """One output of the evaluator."""

    def compose(self, title: str = "") -> np.ndarray | None:
        """`[height, width, 3]` uint8 RGB, None if nothing was kept."""


class VolumePicture:
    """Slices of the first validation volume with the outlines of reference and prediction.

    Args:
        plan: names of the classes and spacing of the slices.
    """

    def __init__(self, plan: RunPlan) -> None:
        self.plan = plan
        self._sample: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def forget(self) -> None:
        self._sample = None

    def keep(self, output: dict[str, Any]) -> None:
        if self._sample is not None:
            return
        prediction = output[CommonKeys.PRED]
        prediction = prediction[0] if isinstance(prediction, list | tuple) else prediction
        labels = prediction[0].argmax(0) if prediction.shape[1] > 1 else prediction[0, 0]
        image, reference = output[CommonKeys.IMAGE][0, 0], output[CommonKeys.LABEL][0, 0]
        self._sample = (image.float().cpu().numpy(), reference.cpu().numpy(), labels.cpu().numpy())

    def compose(self, title: str = "") -> np.ndarray | None:
        if self._sample is None:
            return None
        return compose_overlay(*self._sample, self.plan.foreground_classes, self.plan.voxel_size, title)


class MembranePicture:
    """First validation slices with their membranes drawn.

    Args:
        num_slices: kept and drawn.
    """

    def __init__(self, num_slices: int = 2) -> None:
        self.num_slices = num_slices
        self._slices: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def forget(self) -> None:
        self._slices = []

    def keep(self, output: dict[str, Any]) -> None:
        missing = self.num_slices - len(self._slices)
        if missing <= 0:
            return
        labels = output[CommonKeys.LABEL][:missing, 0]
        probabilities: torch.Tensor = resized(output[CommonKeys.PRED][:missing], labels.shape[-2:])[:, 1]
        for image, label, page in zip(output[CommonKeys.IMAGE][:missing, 0], labels, probabilities, strict=True):
            self._slices.append((image.float().cpu().numpy(), label.cpu().numpy(), page.float().cpu().numpy()))

    def compose(self, title: str = "") -> np.ndarray | None:
        if not self._slices:
            return None
        images, labels, probabilities = (np.stack(arrays) for arrays in zip(*self._slices, strict=True))
        return compose_membranes(images, labels, probabilities, [title, *[""] * (len(images) - 1)], len(images))
