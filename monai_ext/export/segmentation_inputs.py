"""Inputs to compare and calibrate exported segmentation networks on: scans as the plan prepares them, or drawn ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_ext.datasets.input_files import find_inputs
from monai_ext.engines.em_inference import images_of_file
from monai_ext.engines.raw_volumes import RawVolumes
from monai_ext.errors import InputError
from monai_ext.planning.em_plan import EmPlan
from monai_ext.planning.plan import Plan
from monai_ext.preprocessing.slice_resize import on_canvas

DRAWN = 4


def patches_of(plan: Plan, place: str | Path, count: int) -> torch.Tensor:
    """Patches of raw scans, prepared as for inference, `[N, C, *patch_size]` float32 with N <= count.

    Args:
        plan: of the model.
        place: image file or folder of them.
        count: patches, evenly spread over cases and positions.

    Raises:
        InputError: an image cannot be read or does not fit the plan.
    """
    volumes = RawVolumes(find_inputs(Path(place), plan.num_channels), plan)
    each = -(-count // len(volumes))
    patches: list[torch.Tensor] = []
    for number in range(0, len(volumes), max(1, len(volumes) // count)):
        item = volumes[number]
        if "error" in item:
            raise InputError(item["error"])
        patches += _cut(item["image"], plan, each)
    return torch.stack(patches[:count])


def em_tiles_of(plan: EmPlan, place: str | Path, count: int) -> torch.Tensor:
    """Inputs of a UNet-EM from slices, scaled as for inference, `[N, 1, *input_size]` float32 with N <= count.

    Args:
        plan: of the model.
        place: TIFF file, or a folder with `test-volume.tif`.
        count: inputs, evenly spread over slices and positions.

    Raises:
        InputError: the file cannot be read or does not fit the plan.
    """
    slices = images_of_file(place, plan)
    slices = slices[np.linspace(0, len(slices) - 1, min(count, len(slices))).round().astype(int)]
    if plan.geometry == "resize":
        return on_canvas(slices[:, None], plan.output_size, plan.margin)
    each = -(-count // len(slices))
    tiles = [tile for image in slices for tile in _windows(image[None], plan.input_size, each)]
    return torch.stack(tiles[:count])


def drawn_patches(channels: int, size: Sequence[int], count: int = DRAWN, seed: int = 0) -> torch.Tensor:
    """Blobs on noise with mean 0 and deviation 1, `[count, C, *size]` float32."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij"))
    patches = random.normal(size=(count, channels, *size))
    for patch in patches:
        for _ in range(4):
            centre, radius = random.uniform(-0.7, 0.7, len(size)), random.uniform(0.15, 0.5)
            inside = ((grid - centre.reshape(-1, *[1] * len(size))) ** 2).sum(0) < radius**2
            patch += inside * random.normal(0, 2, (channels, *[1] * len(size)))
    patches -= patches.mean()
    return torch.from_numpy((patches / patches.std()).astype(np.float32))


def _cut(image: torch.Tensor, plan: Plan, count: int) -> list[torch.Tensor]:
    """Windows on the diagonal of a case `[C, d, h, w]`, padded with zeros where it is smaller than the patch."""
    size: Any = plan.patch_size
    if plan.spatial_dims == 2:
        slices = np.linspace(0, image.shape[1] - 1, min(count, image.shape[1])).round().astype(int)
        return [part for k in slices for part in _windows(image[:, k], size, 1)]
    return _windows(image, size, count)


def _windows(image: torch.Tensor, size: Sequence[int], count: int) -> list[torch.Tensor]:
    padding = [
        n for have, want in zip(image.shape[:0:-1], reversed(size), strict=True) for n in (0, max(0, want - have))
    ]
    image = torch.nn.functional.pad(image, padding)
    windows = []
    for share in np.linspace(0, 1, count + 2)[1:-1]:
        first = [round(share * (have - want)) for have, want in zip(image.shape[1:], size, strict=True)]
        windows.append(image[(slice(None), *(slice(a, a + n) for a, n in zip(first, size, strict=True)))].clone())
    return windows
