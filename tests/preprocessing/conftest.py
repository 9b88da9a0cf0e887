"""A small plan and small NIfTI datasets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

from monai_ext.datasets.segmentation_dataset import Case, SegmentationDataset
from monai_ext.planning.plan import ChannelIntensity, Plan


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    def make(**changes: Any) -> Plan:
        fields: dict[str, Any] = {
            "dataset": "balls",
            "channels": ("MRI",),
            "labels": {"background": 0, "ball": 1, "core": 2},
            "spatial_dims": 3,
            "axes": (0, 1, 2),
            "spacing": (1.0, 1.0, 1.0),
            "median_shape": (20, 22, 24),
            "crop": "nonzero",
            "normalization": ("zscore",),
            "intensity": (ChannelIntensity(100.0, 20.0, 100.0, 0.0, 200.0, 50.0, 150.0),),
            "patch_size": (16, 16, 16),
            "batch_size": 2,
            "strides": ((1, 1, 1), (2, 2, 2)),
            "kernels": ((3, 3, 3), (3, 3, 3)),
            "features": (8, 16),
        }
        return Plan(**{**fields, **changes})

    return make


def grid(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Any:
    """Stands in for Geometry where only shape and spacing matter."""
    return SimpleNamespace(shape=shape, spacing=spacing)


def ball_case(
    shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Image `[1, D, H, W]` with a border of zeros, and labels: a ball (1) with a core (2) about the centre, in mm."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    radius = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    size = min(n * s for n, s in zip(shape, spacing, strict=True))
    label = (radius < 0.38 * size).astype(np.uint8) + (radius < 0.2 * size)
    image = np.random.default_rng(seed).normal(100, 10, (1, *shape)).astype(np.float32) + 50 * label
    image[:, :1] = image[:, :, :2] = image[:, :, :, -3:] = 0
    return image, label.astype(np.uint8)


def save_nifti(path: Path, array: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Path:
    """`[D, H, W]` canonical to a NIfTI file."""
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), np.diag([*reversed(spacing), 1.0])), path)
    return path


@pytest.fixture
def balls(tmp_path: Path) -> SegmentationDataset:
    """Three labelled cases on disk, the last one without foreground."""
    root = tmp_path / "raw"
    root.mkdir()
    cases = []
    for number in range(3):
        image, label = ball_case((18, 20 + number, 22), seed=number)
        if number == 2:
            label[:] = 0
        name = f"case_{number}"
        cases.append(
            Case(name, (save_nifti(root / f"{name}.nii", image[0]),), save_nifti(root / f"{name}_label.nii", label))
        )
    return SegmentationDataset("balls", root, ("MRI",), {"background": 0, "ball": 1, "core": 2}, tuple(cases))


@pytest.fixture
def tools() -> SimpleNamespace:
    return SimpleNamespace(grid=grid, ball_case=ball_case, save_nifti=save_nifti)
