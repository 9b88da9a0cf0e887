"""A narrow nnU-Net with random weights as a model folder, and volumes to predict with it."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from monai_ext.networks.plan_unet import network_from_plan
from monai_ext.planning.plan import ChannelIntensity, Plan

CLASSES = 20


def narrow_plan(patch_size: tuple[int, int, int], spacing: float = 1.0, features: int = 4, **changes: Any) -> Plan:
    """Plan of one CT channel and 20 classes with two levels."""
    fields: dict[str, Any] = {
        "dataset": "narrow",
        "channels": ("CT",),
        "labels": {"background": 0, **{f"organ {n}": n for n in range(1, CLASSES)}},
        "spatial_dims": 3,
        "axes": (0, 1, 2),
        "spacing": (spacing,) * 3,
        "median_shape": patch_size,
        "crop": "none",
        "normalization": ("ct",),
        "intensity": (ChannelIntensity(100, 50, 100, 0, 1000, 0, 500),),
        "patch_size": patch_size,
        "batch_size": 2,
        "strides": ((1, 1, 1), (2, 2, 2)),
        "kernels": ((3, 3, 3), (3, 3, 3)),
        "features": (features, 2 * features),
    }
    return Plan(**{**fields, **changes})


def write_model(folder: Path, plan: Plan) -> Path:
    """Write `model.pt` and `plan.json`; every class of the network has about the same chance to win."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(plan.to_json())
    network = network_from_plan(plan, deep_supervision=False)
    torch.save(network.state_dict(), folder / "model.pt")
    return folder / "model.pt"


def write_volume(path: Path, shape: tuple[int, int, int], spacing: float = 1.0, seed: int = 0) -> None:
    """Write a CT of `shape` (x, y, z) as int16, slice by slice: waves and noise, nowhere of one value."""
    random = np.random.default_rng(seed)
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header.set_sform(np.diag([spacing, spacing, spacing, 1.0]), code=1)
    header["pixdim"][1:4] = spacing
    header["vox_offset"] = 352
    noise = random.integers(-40, 40, (shape[1], shape[0]), dtype=np.int16)
    y, x = np.mgrid[: shape[1], : shape[0]]
    waves = (100 + 80 * np.sin(x / 9) * np.cos(y / 7)).astype(np.int16)
    packed = path.suffix == ".gz"
    with gzip.open(path, "wb", compresslevel=1) if packed else path.open("wb") as file:
        header.write_to(file)
        file.write(b"\0" * (352 - file.tell()))
        for z in range(shape[2]):
            file.write((np.roll(waves, z, 1) + np.roll(noise, 3 * z, 0)).astype("<i2").tobytes())
