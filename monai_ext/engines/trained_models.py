"""Trained models for inference: one model, or the folds of a cross-validation averaged; any bundle's plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from monai_ext.engines.run_folder import find_model, plan_beside
from monai_ext.engines.run_protection import RunPlan
from monai_ext.engines.training_checkpoint import load_weights
from monai_ext.errors import InputError
from monai_ext.networks.ensemble import ProbabilityMean

logger = logging.getLogger(__name__)
AnyPlan = TypeVar("AnyPlan", bound=RunPlan)


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


def common_plan(plan_type: type[AnyPlan], models: Sequence[str], bundle_root: str) -> AnyPlan:
    """The plan that all models share.

    Raises:
        InputError: a model has lost its plan, or was trained with another than the first.
    """
    plans = [plan_type.load(plan_beside(model, bundle_root)) for model in models]
    other = [model for model, plan in zip(models, plans, strict=True) if plan.signature() != plans[0].signature()]
    if other:
        raise InputError(
            f"{other[0]}: was trained with another plan than {models[0]}, so they cannot be averaged. "
            "Cure: models of one cross-validation"
        )
    return plans[0]


def plan_of_models(plan_type: type[AnyPlan], ckpt_path: str | Sequence[str], bundle_root: str) -> AnyPlan:
    """Plan of the models that `find_models` finds; the bundle's default plan while there is none at all."""
    try:
        models = find_models(ckpt_path, bundle_root)
    except InputError:
        if ckpt_path:
            raise
        return plan_type.load(Path(bundle_root) / "configs" / "default_plan.json")
    return common_plan(plan_type, models, bundle_root)


def trained_network(
    network_def: torch.nn.Module,
    make_network: Callable[[], torch.nn.Module],
    plan_type: type[AnyPlan],
    ckpt_path: str | Sequence[str],
    bundle_root: str,
    load: Callable[[torch.nn.Module, str, str], torch.nn.Module] = load_weights,
    mean: type[ProbabilityMean] = ProbabilityMean,
) -> torch.nn.Module:
    """`network_def` with its weights, or the mean of all models in the form of one network.

    `make_network` builds the network of each model of an ensemble, `load(network, path, cure)` fills it, `mean` makes
    one network of them.
    """
    models = find_models(ckpt_path, bundle_root)
    cure = "train first, or set --ckpt_path"
    if len(models) == 1:
        return load(network_def, models[0], cure)
    common_plan(plan_type, models, bundle_root)
    return mean([load(make_network(), model, cure) for model in models])
