"""Augmentation in two places: a loader draws and reads, the training device computes for the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import Compose

from monai_ext.errors import InputError
from monai_ext.ops.intensity_chain import intensity_chain
from monai_ext.ops.patch_affine import patch_affine
from monai_ext.transforms.drawn_transform import DrawnTransform, IntensityTransform
from monai_ext.transforms.foreground_crop import RandForegroundCropd
from monai_ext.transforms.fused_chain import FusedCompose, IntensityRun, fuse

PLACES = ("loader", "device")


def augmentation_chain(transforms: Sequence[Callable], place: str = "loader") -> Compose:
    """The transforms of a training sample: `FusedCompose` for `loader`, `DeferredCompose` for `device`.

    Raises:
        InputError: unknown place, or transforms that cannot be deferred.
    """
    if place not in PLACES:
        raise InputError(f"--augment_on {place}: unknown. Cure: one of {', '.join(PLACES)}")
    return FusedCompose(transforms) if place == "loader" else DeferredCompose(transforms)


class DeferredCompose(FusedCompose):
    """Draws what `FusedCompose` would and reads the voxels that the patch needs; `DeferredBatch` computes the rest.

    A sample leaves with `image` and `label` (boxes `[C, d, h, w]` and `[1, d, h, w]` of stored voxels, larger than the
    patch where it is turned or shrunk), `matrix` `[3, 3]` and `centre` `[3]` float64 (of the patch in the box), and
    `drawn`: the parameters of every further transform.

    Args:
        transforms: `RandForegroundCropd`, then transforms of this package that draw before they compute.

    Raises:
        InputError: other transforms, which need the sample itself.
    """

    def __init__(self, transforms: Sequence[Callable]) -> None:
        super().__init__(transforms)
        crop, *others = self.transforms
        foreign = [type(t).__name__ for t in others if not isinstance(t, DrawnTransform)]
        if not isinstance(crop, RandForegroundCropd) or crop.slices != 1:
            foreign.insert(0, f"{type(crop).__name__} for blocks of slices" if hasattr(crop, "slices") else str(crop))
        if foreign:
            raise InputError(
                f"--augment_on device: {', '.join(foreign)} cannot be computed for a batch. Cure: --augment_on loader"
            )

    def __call__(
        self, input_: Any, start: int = 0, end: int | None = None, threading: bool = False, lazy: bool | None = None
    ) -> dict[Hashable, Any]:
        crop, *others = self.transforms
        sample = crop.read(input_)
        like = torch.empty((sample[crop.keys[0]].shape[0], *crop.patch_size), device="meta")
        for transform in others:
            transform.randomize(like)
        sample["drawn"] = [transform.params for transform in others]
        return sample


class DeferredBatch:
    """Computes what `DeferredCompose` drew, for all samples of a batch together.

    Args:
        chain: the same transforms; only their pure functions are used, their state is not.
    """

    def __init__(self, chain: DeferredCompose) -> None:
        self.crop, *others = chain.transforms
        self.stages = [(number, stage) for number, stage in _numbered(others)]

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Image `[B, C, *patch]` float32 and label `[B, 1, *patch]`, on the device where the boxes are.

        Args:
            batch: lists of the samples' `image`, `label`, `matrix`, `centre` and `drawn`.
        """
        image_key, label_key = self.crop.keys
        labels = batch.get(label_key)
        flat = len(self.crop.patch_size) == 2
        size = (1, *self.crop.patch_size) if flat else self.crop.patch_size
        image, label = patch_affine(
            batch[image_key], labels, torch.stack(list(batch["matrix"])), torch.stack(list(batch["centre"])), size
        )
        tensors = {image_key: image} if label is None else {image_key: image, label_key: label}
        if flat:
            tensors = {key: value[:, :, 0] for key, value in tensors.items()}
        for number, stage in self.stages:
            _compute(stage, [drawn[number : number + _length(stage)] for drawn in batch["drawn"]], tensors)
        return tensors


def _numbered(transforms: Sequence[Any]) -> list[tuple[int, Any]]:
    """Stages of a chain, each with the number of its first transform."""
    stages, number = [], 0
    for stage in fuse(transforms):
        stages.append((number, stage))
        number += _length(stage)
    return stages


def _length(stage: Any) -> int:
    return len(stage.transforms) if isinstance(stage, IntensityRun) else 1


def _compute(stage: Any, drawn: list[list[dict[str, Any]]], tensors: dict[str, torch.Tensor]) -> None:
    """Run one stage on the batch, in place of the tensors that it changes."""
    transforms = stage.transforms if isinstance(stage, IntensityRun) else (stage,)
    for key in stage.keys:
        if key not in tensors:
            continue
        batch = tensors[key]
        if isinstance(transforms[0], IntensityTransform):
            chains = [
                [t.step(batch[0], params) for t, params in zip(transforms, sample, strict=True) if params]
                for sample in drawn
            ]
            if any(chains):
                tensors[key] = intensity_chain(batch, chains)
        elif any(sample[0] for sample in drawn):
            images = [
                stage.apply_to_key(key, x, sample[0]) if sample[0] else x
                for x, sample in zip(batch, drawn, strict=True)
            ]
            tensors[key] = torch.stack(images)
