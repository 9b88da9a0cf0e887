"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

# several workers of pytest-xdist share the processors: threads that wait for each other would stall; before numpy and
# torch read it
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

# Triton kernels run in its interpreter without a GPU; its own functions are defined when it is first imported, by
# whichever test that may be
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

DATA_VARIABLE = "MONAI_EXT_TEST_DATA"


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of real datasets and golden numbers; tests that need it are skipped elsewhere."""
    value = os.environ.get(DATA_VARIABLE)
    if not value or not Path(value).is_dir():
        pytest.skip(f"needs real data: set {DATA_VARIABLE} to the folder that holds it")
    return Path(value)


@pytest.fixture
def dicom_series(tmp_path: Path) -> Callable[..., Path]:
    """Write an array `[z, y, x]` int16 as one file per slice."""

    def write(
        name: str,
        array: np.ndarray,
        spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
        origin: tuple[float, ...] = (0.0, 0.0, 0.0),
        direction: np.ndarray | None = None,
        uid: str = "1.2.3.4",
        ending: str = ".dcm",
    ) -> Path:
        import itk

        axes = np.eye(3) if direction is None else direction
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(array.shape[0]):
            image = itk.image_from_array(np.ascontiguousarray(array[k : k + 1]))
            image.SetSpacing(spacing)
            image.SetDirection(itk.matrix_from_array(axes))
            image.SetOrigin((np.array(origin) + axes[:, 2] * spacing[2] * k).tolist())
            tags = image.GetMetaDataDictionary()
            tags["0008|0060"], tags["0008|0021"] = "MR", "20200101"
            tags["0020|000d"], tags["0020|000e"], tags["0020|0013"] = "1.2.3", uid, str(k + 1)
            writer = itk.GDCMImageIO.New()
            writer.SetKeepOriginalUID(True)
            path = folder / f"{uid}_{k:03d}.dcm"
            itk.imwrite(image, str(path), imageio=writer)
            if ending != ".dcm":
                path.rename(folder / f"slice{k:03d}")
        return folder

    return write
