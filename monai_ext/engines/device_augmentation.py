"""A loader whose batches are augmented on the training device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from monai_ext.transforms.deferred_chain import DeferredBatch, DeferredCompose


def as_lists(samples: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """`collate_fn` for samples of different sizes: a list per key instead of a stacked tensor."""
    return {key: [sample[key] for sample in samples] for key in samples[0]}


class DeviceAugmentation:
    """Moves the boxes of each batch to a device and computes the augmentation there.

    A batch leaves with `image` `[B, C, *patch]` float32 and `label` `[B, 1, *patch]`, and with what else the samples
    held, as lists.

    Args:
        loader: yields lists of samples of a `DeferredCompose`, see `as_lists`.
        chain: that compose.
        device: of the training.
    """

    def __init__(self, loader: DataLoader, chain: DeferredCompose, device: torch.device | str) -> None:
        self.loader = loader
        self.compute = DeferredBatch(chain)
        self.device = torch.device(device)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.loader:
            moved = {key: [self._moved(value) for value in values] for key, values in batch.items()}
            rest = {k: v for k, v in moved.items() if k not in ("matrix", "centre", "drawn")}
            # positions stay on the host, where they are turned into arguments of the kernel
            yield {**rest, **self.compute({**moved, "matrix": batch["matrix"], "centre": batch["centre"]})}

    def _moved(self, value: Any) -> Any:
        return value.to(self.device, non_blocking=True) if isinstance(value, torch.Tensor) else value


def augmented(loader: DataLoader, chain: Any, device: torch.device | str) -> DataLoader | DeviceAugmentation:
    """`loader` itself, or around it the part of the augmentation that its samples left for the device."""
    return DeviceAugmentation(loader, chain, device) if isinstance(chain, DeferredCompose) else loader
