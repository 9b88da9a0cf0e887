"""From a collated batch of pictures to the network's input, on the device: a byte per value travels, not four."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from monai_ext.engines.batch_mixing import BatchMixing
from monai_ext.planning.class_plan import ClassPlan


class PictureNormalisation:
    """`((x - low) / (high - low) - mean) / std` per channel.

    Args:
        plan: gives `value_range`, `mean` and `std`.
        device: where to compute; None: where the images are.
        channels_last: memory layout of the result.
    """

    def __init__(self, plan: ClassPlan, device: torch.device | str | None = None, channels_last: bool = False) -> None:
        low, high = plan.value_range
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (plan.mean, plan.std))
        shape = (1, plan.channels, *[1] * plan.spatial_dims)
        self.scale = (1 / (std * (high - low))).reshape(shape).float()
        self.shift = (-(mean + low / (high - low)) / std).reshape(shape).float()
        self.device = None if device is None else torch.device(device)
        formats = {2: torch.channels_last, 3: torch.channels_last_3d}
        self.memory_format = formats.get(plan.spatial_dims) if channels_last else None

    def __call__(self, images: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        """Normalise images `[B, C, *spatial]` of any type; a new float32 tensor on the device."""
        images = images.to(self.device or images.device, non_blocking=non_blocking)
        if self.scale.device != images.device:
            self.scale, self.shift = self.scale.to(images.device), self.shift.to(images.device)
        form = self.memory_format or torch.contiguous_format
        out = images.to(torch.float32, memory_format=form, copy=True)
        return out.mul_(self.scale).add_(self.shift)


def prepare_batch(
    normalisation: PictureNormalisation, mixing: BatchMixing | None = None
) -> Callable[..., tuple[torch.Tensor, torch.Tensor | None]]:
    """Function for the `prepare_batch` of MONAI's engines.

    It takes `{"image": [B, C, *spatial], "label": [B] int64 or [B, K]}` (the label may be missing) and gives the
    normalised images and the labels, mixed where `mixing` is given: soft targets `[B, K]`.

    Args:
        normalisation: brings the images to the device.
        mixing: for training only.
    """

    def prepared(
        batch: Mapping[str, Any],
        device: torch.device | str | None = None,
        non_blocking: bool = False,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        images = batch["image"] if device is None else batch["image"].to(device, non_blocking=non_blocking)
        images = normalisation(images, non_blocking)
        label = batch.get("label")
        if label is None:
            return images, None
        label = label.to(images.device, non_blocking=non_blocking)
        return (images, label) if mixing is None else mixing(images, label)

    return prepared
