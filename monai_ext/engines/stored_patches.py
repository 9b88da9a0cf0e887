"""Stored cases as training samples, cut and augmented by transforms seeded per sample, and as whole volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from torch.utils.data import Dataset, default_collate

from monai_ext.errors import InputError
from monai_ext.preprocessing.case_store import CaseStore, StoredCase
from monai_ext.transforms.sample_seed import seed_transforms


class PatchDataset(Dataset[dict[str, Any]]):
    """Map `(sample number, case index, slot)` to a patch; what comes out is a function of (seed, sample number).

    Args:
        store: preprocessed cases.
        data: names of the cases to draw from.
        transform: MONAI dictionary transforms; stock ones work too, their random state is set before every sample.
        seed: of the augmentation.
    """

    def __init__(self, store: CaseStore, data: Sequence[str], transform: Compose, seed: int = 0) -> None:
        self.store = store
        self.data = list(data)
        self.transform = transform
        self.seed = seed
        self._open: dict[str, StoredCase] = {}

    def __len__(self) -> int:
        return len(self.data)

    def _case(self, index: int) -> StoredCase:
        name = self.data[index]
        if name not in self._open:
            self._open[name] = self.store.load(name)  # memory-mapped: keeping it open costs an address range only
        return self._open[name]

    def __getitem__(self, index: tuple[int, int, int]) -> dict[str, Any]:
        sample, case_index, slot = index
        case = self._case(case_index)
        seed_transforms(self.transform, self.seed, sample)
        return self.transform(
            {"image": case.image, "label": case.label, "locations": case.locations, "slot": slot, "case": case.name}
        )


class StoredVolumes(Dataset[dict[str, Any]]):
    """Whole stored cases for validation during training: `image` `[C, d, h, w]` float32, `label` `[1, d, h, w]`.

    Args:
        store: preprocessed cases.
        data: names of the cases.
    """

    def __init__(self, store: CaseStore, data: Sequence[str]) -> None:
        self.store = store
        self.data = list(data)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        case = self.store.load(self.data[index])
        if case.label is None:
            raise ValueError(f"case {case.name} has no label")
        return {
            "image": torch.from_numpy(np.array(case.image)),
            "label": torch.from_numpy(np.array(case.label, dtype=np.int64))[None],
            "case": case.name,
        }


def slices_per_volume(spatial_dims: int, batch_size: int, nvol: int) -> int:
    """Slices that each sample of a 2D batch holds: `batch_size / nvol` neighbours of one volume; 1 in 3D.

    Args:
        spatial_dims: of the network.
        batch_size: slices (2D) or patches (3D) per step.
        nvol: volumes that the slices of a batch come from; 0 takes every slice from a volume of its own.

    Raises:
        InputError: `nvol` does not divide the batch, or is set in 3D.
    """
    if nvol == 0:
        return 1
    if spatial_dims == 3:
        raise InputError(f"--nvol {nvol}: is for 2D slices. Cure: leave it 0, or --spatial_dims 2")
    if batch_size % nvol:
        cure = f"--batch_size {max(1, batch_size // nvol) * nvol}"
        raise InputError(f"--nvol {nvol}: does not divide the batch of {batch_size} slices. Cure: {cure}")
    return batch_size // nvol


def collate_slices(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """`collate_fn` for blocks of slices: each sample's `[C, slices, h, w]` become items of the batch `[B, C, h, w]`."""
    batch = default_collate(samples)
    for name in ("image", "label"):
        batch[name] = batch[name].transpose(1, 2).flatten(0, 1)
    return batch
