"""Models and images of EM inference: one model or the folds of a cross-validation, any TIFF."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.utils.enums import CommonKeys

from monai_ext.datasets.em_stack import EmStack, read_em_images, scaled
from monai_ext.engines.run_folder import find_model, plan_beside
from monai_ext.engines.training_checkpoint import load_weights
from monai_ext.errors import InputError
from monai_ext.networks.ensemble import ProbabilityMean
from monai_ext.networks.valid_unet import network_from_em_plan
from monai_ext.planning.em_plan import EmPlan

logger = logging.getLogger(__name__)
TEST_FILE = "test-volume.tif"
OUTSIDE, LEAST_SPAN = 2.0, 0.05  # of grey values scaled to -1 to 1, between their 1st and 99th percentile


def find_models(ckpt_path: str | Sequence[str], bundle_root: str) -> list[str]:
    """Model files: those given, the folds' of a folder that holds several, else the one that `find_model` finds.

    Raises:
        InputError: a file is missing, or several models are there and none was chosen.
    """
    if not isinstance(ckpt_path, str):
        return [find_model(path, bundle_root) for path in ckpt_path]
    folder = Path(ckpt_path)
    if ckpt_path and folder.is_dir() and not (folder / "model.pt").is_file():
        found = sorted(str(path) for path in folder.glob("*/model.pt") if path.parent.name.isdecimal())
        if found:
            logger.info("ensemble of %d models: %s", len(found), ", ".join(found))
            return found
    return [find_model(ckpt_path, bundle_root)]


def common_plan(models: Sequence[str], bundle_root: str) -> EmPlan:
    """The plan that all models share.

    Raises:
        InputError: a model has lost its plan, or was trained with another than the first.
    """
    plans = [EmPlan.load(plan_beside(model, bundle_root)) for model in models]
    other = [model for model, plan in zip(models, plans, strict=True) if plan.signature() != plans[0].signature()]
    if other:
        raise InputError(
            f"{other[0]}: was trained with another plan than {models[0]}, so they cannot be averaged. "
            "Cure: models of one cross-validation"
        )
    return plans[0]


def plan_of_models(ckpt_path: str | Sequence[str], bundle_root: str) -> EmPlan:
    """Plan of the models that `find_models` finds; the bundle's default plan while there is none at all."""
    try:
        models = find_models(ckpt_path, bundle_root)
    except InputError:
        if ckpt_path:
            raise
        return EmPlan.load(Path(bundle_root) / "configs" / "default_plan.json")
    return common_plan(models, bundle_root)


def trained_network(network_def: torch.nn.Module, ckpt_path: str | Sequence[str], bundle_root: str) -> torch.nn.Module:
    """`network_def` with its weights, or the mean of all models in the form of one network."""
    models = find_models(ckpt_path, bundle_root)
    cure = "train first, or set --ckpt_path"
    if len(models) == 1:
        return load_weights(network_def, models[0], cure)
    plan = common_plan(models, bundle_root)
    return ProbabilityMean([load_weights(network_from_em_plan(plan), model, cure) for model in models])


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
    """Scaled images; refuses grey values of another scale than those of the training, which would predict nonsense."""
    plan.check_slice(images.shape[1], images.shape[2], where)
    result = scaled(images, plan.value_range)
    low, high = np.percentile(result, [1, 99])
    if low < -OUTSIDE or high > OUTSIDE or (high - low < LEAST_SPAN and images.dtype != np.uint8):
        seen, (least, most) = np.percentile(images, [1, 99]), plan.value_range
        raise InputError(
            f"{where}: grey values from {seen[0]:g} to {seen[1]:g} do not fit the model, which was trained with "
            f"{least:g} to {most:g}. Cure: save it with the type and scale of the training stack"
        )
    return torch.from_numpy(result)
