"""Slices of a stack as training samples, augmented by transforms seeded per sample, and as whole images."""

from __future__ import annotations

from typing import Any

import torch
from monai.transforms import Compose
from torch.utils.data import Dataset

from monai_ext.engines.em_preparation import Slices
from monai_ext.transforms.sample_seed import seed_transforms


class SliceSamples(Dataset[dict[str, Any]]):
    """Map `(sample number, slice index, slot)` to a sample; what comes out is a function of (seed, sample number).

    Args:
        slices: to draw from.
        transform: MONAI dictionary transforms; stock ones work too, their random state is set before every sample.
        seed: of the augmentation.
    """

    def __init__(self, slices: Slices, transform: Compose, seed: int = 0) -> None:
        self.slices = slices
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.slices.names)

    def __getitem__(self, index: tuple[int, int, int]) -> dict[str, Any]:
        sample, number, _ = index
        seed_transforms(self.transform, self.seed, sample)
        slices = self.slices
        result = self.transform({"image": slices.images[number], "label": slices.labels[number]})
        # stock transforms hand out MetaTensor, whose meta data would only cost time in the loader
        return {name: _plain(result[name]) for name in ("image", "label")}


class WholeSlices(Dataset[dict[str, Any]]):
    """Slices one by one: `image` `[1, H, W]` float32, `label` `[1, H, W]` int64, `case` the name of the slice."""

    def __init__(self, slices: Slices) -> None:
        self.slices = slices

    def __len__(self) -> int:
        return len(self.slices.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        slices = self.slices
        return {"image": slices.images[index], "label": slices.labels[index], "case": slices.names[index]}


class WholeImages(Dataset[dict[str, Any]]):
    """Unlabelled slices one by one: `image` `[1, H, W]` float32.

    Args:
        images: `[N, H, W]`, scaled to -1 to 1.
    """

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index][None]}


def _plain(value: torch.Tensor) -> torch.Tensor:
    return value.as_tensor() if hasattr(value, "as_tensor") else value
