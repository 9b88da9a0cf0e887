"""Models and images of EM inference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from monai_ext.datasets.em_writing import write_stack
from monai_ext.engines.em_inference import (
    image_only,
    images_of_file,
    input_file,
)
from monai_ext.errors import InputError
from monai_ext.planning.em_plan import EmPlan

PLAN = EmPlan("stack", "tile", (60, 60), (0.0, 255.0), 2, 2)


def test_input_is_a_file_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "test-volume.tif").touch()
    assert input_file(tmp_path) == input_file(tmp_path / "test-volume.tif") == tmp_path / "test-volume.tif"
    with pytest.raises(InputError, match="--input is empty"):
        input_file("")
    with pytest.raises(InputError, match=r"other\.tif: does not exist"):
        input_file(tmp_path / "other.tif")


@pytest.mark.parametrize(
    "images",
    [
        np.full((1, 90, 90), 30000, np.uint16),  # 16 bits into a model of 8 bits
        np.linspace(0, 1, 90 * 90, dtype=np.float32).reshape(1, 90, 90),  # floats from 0 to 1
    ],
)
def test_grey_values_of_another_scale_are_refused(tmp_path: Path, images: np.ndarray) -> None:
    write_stack(tmp_path / "a.tif", images)
    with pytest.raises(InputError, match=r"a\.tif: grey values .* trained with 0 to 255"):
        images_of_file(tmp_path / "a.tif", PLAN)
    write_stack(tmp_path / "b.tif", np.random.default_rng(0).integers(0, 256, (1, 90, 90), np.uint8))
    assert images_of_file(tmp_path / "b.tif", PLAN).abs().max() <= 1


def test_batches_without_labels() -> None:
    image, label = image_only({"image": torch.zeros(1, 1, 4, 4)}, torch.device("cpu"))
    assert image.shape == (1, 1, 4, 4)
    assert label is None
