"""Models and images of EM inference: one model or the folds of a cross-validation, any TIFF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.utils.enums import CommonKeys

from monai_ext.datasets.em_stack import EmStack, read_em_images
from monai_ext.datasets.em_values import scaled_as_in_training
from monai_ext.engines import trained_models
from monai_ext.errors import InputError
from monai_ext.networks.valid_unet import network_from_em_plan
from monai_ext.planning.em_plan import EmPlan

TEST_FILE = "test-volume.tif"


def plan_of_models(ckpt_path: str | Sequence[str], bundle_root: str) -> EmPlan:
    """Plan of the models that are given; the bundle's default plan while there is none at all."""
    return trained_models.plan_of_models(EmPlan, ckpt_path, bundle_root)


def trained_network(network_def: torch.nn.Module, ckpt_path: str | Sequence[str], bundle_root: str) -> torch.nn.Module:
    """`network_def` with its weights, or the mean of all models in the form of one network."""

    def make_network() -> torch.nn.Module:
        return network_from_em_plan(plan_of_models(ckpt_path, bundle_root))

    return trained_models.trained_network(network_def, make_network, EmPlan, ckpt_path, bundle_root)


def input_file(path: str | Path) -> Path:
    """The TIFF to predict: a file, or the test stack in a folder.

    Raises:
        InputError: nothing is there.
    """
    if not str(path):
        raise InputError(f"--input is empty. Cure: a TIFF file, or a folder that holds {TEST_FILE}")
    path = Path(path)
    path = path / TEST_FILE if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"--input {path}: does not exist. Cure: a TIFF file, or a folder that holds {TEST_FILE}")
    return path


def images_of_file(path: str | Path, plan: EmPlan) -> torch.Tensor:
    """Pages of a TIFF `[N, H, W]` float32, grey values scaled as in training.

    Raises:
        InputError: the file cannot be read, its pages are smaller than the receptive field, or its grey values are of
            another scale than those of the training.
    """
    path = input_file(path)
    images = read_em_images(path)
    return _ready(images, plan, str(path))


def image_only(
    batch: Mapping[str, torch.Tensor], device: torch.device, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """`prepare_batch` of an engine for images without labels."""
    return batch[CommonKeys.IMAGE].to(device, non_blocking=non_blocking), None


def test_images(stack: EmStack, plan: EmPlan) -> torch.Tensor:
    """The test pages of a stack `[N, H, W]` float32, grey values scaled as in training."""
    return _ready(stack.test, plan, str(stack.folder / TEST_FILE))


def _ready(images: np.ndarray, plan: EmPlan, where: str) -> torch.Tensor:
    return torch.from_numpy(scaled_as_in_training(images, plan, where))
