"""Weights that a classifier starts from, and those of a finished training, quantised or not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from monai_ext.engines import trained_models
from monai_ext.engines.training_checkpoint import load_tensors, load_weights
from monai_ext.errors import InputError
from monai_ext.export.classifier import QAT_OPTIONS
from monai_ext.networks.classifier_weights import load_classifier_weights
from monai_ext.networks.ensemble import ProbabilityMean, SigmoidMean
from monai_ext.networks.fake_quantisation import match_fake_quantisation, with_fake_quantisation
from monai_ext.networks.se_resnext import network_from_class_plan
from monai_ext.planning.class_plan import ClassPlan

logger = logging.getLogger(__name__)
CURE = "train first, or set --ckpt_path"


def start_from(
    network: nn.Module, plan: ClassPlan, pretrained: str, quantize: str = "none", symmetric: bool = True
) -> nn.Module:
    """Fill a network from a weight file and prepare it for quantisation-aware training, both in place.

    Args:
        network: of the plan.
        plan: of the training. The last layer of a model of this package is kept only where its classes are the same.
        pretrained: file of this package, MONAI, timm, torchvision or NVIDIA; empty for none.
        quantize: `qat` gives every convolution and linear layer a range of its input.
        symmetric: of those ranges.

    Raises:
        InputError: the file is missing, or its tensors are those of another architecture.
    """
    if pretrained:
        beside = Path(pretrained).parent / "plan.json"
        other_classes = beside.is_file() and ClassPlan.load(beside).classes != plan.classes
        logger.info("%s", load_classifier_weights(network, pretrained, new_head=other_classes).describe())
    if quantize != "qat":
        return network
    return with_fake_quantisation(network, symmetric, skip=QAT_OPTIONS["skip"], norms=QAT_OPTIONS["norms"])


def load_classifier(network: nn.Module, ckpt_path: str, cure: str = CURE) -> nn.Module:
    """`network` with the weights of a training, which may have been quantisation-aware.

    Raises:
        InputError: the file is missing or damaged, or its tensors are not those of the network.
    """
    return load_weights(match_fake_quantisation(network, load_tensors(ckpt_path, cure)), ckpt_path, cure)


def plan_of_models(ckpt_path: str | Sequence[str], bundle_root: str) -> ClassPlan:
    """Plan of the models that are given; the bundle's default plan while there is none at all."""
    return trained_models.plan_of_models(ClassPlan, ckpt_path, bundle_root)


def trained_network(network_def: nn.Module, ckpt_path: str | Sequence[str], bundle_root: str) -> nn.Module:
    """`network_def` with its weights, or the mean of all models in the form of one network."""

    plan = plan_of_models(ckpt_path, bundle_root)
    return trained_models.trained_network(
        network_def,
        lambda: network_from_class_plan(plan),
        ClassPlan,
        ckpt_path,
        bundle_root,
        load_classifier,
        SigmoidMean if plan.multi_label else ProbabilityMean,
    )


def single_model(ckpt_path: str | Sequence[str], bundle_root: str) -> str:
    """The one model file that is used; empty for an ensemble, and while there is none."""
    try:
        models = trained_models.find_models(ckpt_path, bundle_root)
    except InputError:
        return ""
    return models[0] if len(models) == 1 else ""
