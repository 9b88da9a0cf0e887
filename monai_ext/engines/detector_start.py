"""Weights that a detector starts from, and detectors ready to search in images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_ext.engines import trained_models
from monai_ext.engines.run_folder import on_device
from monai_ext.engines.training_checkpoint import load_weights
from monai_ext.errors import InputError
from monai_ext.networks.mask_rcnn.detector_weights import load_detector_weights
from monai_ext.planning.instance_plan import InstancePlan

logger = logging.getLogger(__name__)
CURE = "train first, or set --ckpt_path"


def start_detector(
    network: nn.Module,
    plan: InstancePlan,
    pretrained: str,
    backbone_ckpt: str,
    device: torch.device | str,
    channels_last: bool = True,
    compiled: bool = False,
) -> nn.Module:
    """Fill a network from a weight file and bring it to its device, in place.

    Args:
        network: `MaskRCNN` of the plan.
        plan: of the training. The last layers of a model of this package are kept only where its classes are the same.
        pretrained: file of a whole detector; empty for none.
        backbone_ckpt: file of a ResNet for the backbone; empty for none.
        device, channels_last: see `on_device`.
        compiled: compile the backbone; what follows it has sizes that change with every image.

    Raises:
        InputError: both files are given, one is missing, or holds tensors of another architecture.
    """
    if pretrained and backbone_ckpt:
        raise InputError(
            f"--pretrained {pretrained} with --backbone_ckpt {backbone_ckpt}: the first holds a backbone already. "
            "Cure: one of the two"
        )
    if pretrained:
        beside = Path(pretrained).parent / "plan.json"
        other_classes = beside.is_file() and InstancePlan.load(beside).classes != plan.classes
        logger.info("%s", load_detector_weights(network, pretrained, new_head=other_classes).describe())
    if backbone_ckpt:
        logger.info("%s", load_detector_weights(network, backbone_ckpt, backbone_only=True).describe())
    if not pretrained and not backbone_ckpt:
        _warn_of_fixed_noise(network, plan)
    return with_compiled_backbone(_on_device(network, device, channels_last), compiled)


def _warn_of_fixed_noise(network: nn.Module, plan: InstancePlan) -> None:
    """Say what keeps its random weights: recipes that start from a file freeze what the file has learned."""
    parts = int(network.get_submodule("backbone").freeze_at)  # type: ignore[arg-type]
    keys = [f"--freeze_at {parts}"] * (parts > 0) + ["--norm frozen_batch"] * (plan.norm == "frozen_batch")
    if keys:
        logger.warning(
            "%s without weights: what is frozen stays random. Cure: --backbone_ckpt or --pretrained, "
            "or --freeze_at 0 --norm group",
            " and ".join(keys),
        )


def trained_detector(
    network: nn.Module,
    ckpt_path: str,
    bundle_root: str,
    device: torch.device | str,
    channels_last: bool = True,
    compiled: bool = False,
) -> nn.Module:
    """Fill a network with the weights of a training and bring it to its device.

    Raises:
        InputError: the file is missing or damaged, or its tensors are not those of the network.
    """
    models = trained_models.find_models(ckpt_path, bundle_root)
    if len(models) > 1:
        raise InputError(
            f"--ckpt_path {ckpt_path}: holds {len(models)} models, and detections of several are not averaged. "
            f"Cure: --ckpt_path {models[0]}"
        )
    network = load_weights(network, models[0], CURE)
    return with_compiled_backbone(_on_device(network, device, channels_last), compiled)


def plan_of_detector(ckpt_path: str, bundle_root: str) -> InstancePlan:
    """Plan of the model that is given; the bundle's default plan while there is none at all."""
    return trained_models.plan_of_models(InstancePlan, ckpt_path, bundle_root)


def with_compiled_backbone(network: nn.Module, compiled: bool) -> nn.Module:
    """Compile `network.backbone` in place; names of parameters stay."""
    if compiled:
        network.get_submodule("backbone").compile()
    return network


def _on_device(network: nn.Module, device: torch.device | str, channels_last: bool) -> nn.Module:
    """As `on_device`; a detector is made with channels last and told where it is not to be."""
    if not channels_last:
        network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        network.channels_last = False  # type: ignore[assignment]
    return on_device(network, device, channels_last)


def with_limits(plan: InstancePlan, **limits: float) -> InstancePlan:
    """The plan with other limits of the inference, such as `label_threshold`; negative ones stay those of the plan.

    Raises:
        InputError: a limit is out of range.
    """
    changed: Mapping[str, Any] = {name: value for name, value in limits.items() if value >= 0}
    plan = replace(plan, **changed)
    plan.check(f"keys {', '.join(f'--{name}' for name in changed)}")
    return plan
