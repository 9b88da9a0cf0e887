"""Parameter groups of a classifier: what decays, what is frozen, and a learning rate per depth."""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from monai_ext.engines.frozen_layers import frozen_parts, unwrapped
from monai_ext.errors import InputError, Problems
from monai_ext.networks.norm_act import NormAct

NORM_TYPES: tuple[type[nn.Module], ...] = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, NormAct)
DEPTH = re.compile(r"layer(\d+)(?:\.|$)")


def parameter_groups(
    network: nn.Module,
    learning_rate: float,
    weight_decay: float,
    decay_biases: bool = False,
    layer_decay: float = 1.0,
    freeze: str = "none",
    bias_rate: float = 1.0,
) -> list[dict[str, Any]]:
    """Groups for `make_optimizer`, with their learning rate, weight decay and a name.

    No parameter of a norm decays, told by the type of its module: names miss the norms of shortcuts. Biases do not
    decay either, apart from `decay_biases` (the TensorFlow recipe of NVIDIA DeepLearningExamples 2021 decays them).
    Frozen parameters stop asking for gradients and are in no group; call this before a network is wrapped for
    distributed training, and attach `FrozenLayers` for their batch norms.

    Args:
        network: parts `layerN` have depth N, everything else (the classifying layer) lies one above the deepest.
        learning_rate: peak, of the classifying layer.
        weight_decay: of the weights of convolutions and linear layers.
        decay_biases: biases outside of norms decay too.
        layer_decay: the rate of a part is `learning_rate * layer_decay ** (parts above it)`; 1: one rate (layer-wise
            rates: Howard and Ruder 2018).
        freeze: `none`, `stem`, `stage1` to `stage4`, see `frozen_parts`.
        bias_rate: factor of the learning rate of all biases (Detectron and NVIDIA's Mask R-CNN: 2).

    Returns:
        dictionaries with `params`, `lr`, `weight_decay`, `name` (`depth 2, decayed`), from the input to the output.

    Raises:
        InputError: a value is out of range, `freeze` is unknown, or nothing is left to train.
    """
    problems = Problems("optimiser")
    if not 0 < layer_decay <= 1:
        problems.add(f"--layer_decay {layer_decay}", "must be above 0 and at most 1", "0.7, or 1 for one rate")
    if not learning_rate > 0:
        problems.add(f"--learning_rate {learning_rate}", "must be above 0", "0.01")
    if not weight_decay >= 0:
        problems.add(f"--weight_decay {weight_decay}", "must be at least 0", "6.1e-5")
    if not bias_rate > 0:
        problems.add(f"--bias_rate {bias_rate}", "must be above 0", "1")
    problems.raise_if_any()

    network = unwrapped(network)
    for part in frozen_parts(network, freeze):
        part.requires_grad_(False)
    above = 1 + max((int(m[1]) for name, _ in network.named_children() if (m := DEPTH.match(name))), default=-1)
    groups: dict[tuple[int, bool, bool], dict[str, Any]] = {}
    seen: set[int] = set()
    for module_name, module in network.named_modules():
        match = DEPTH.match(module_name)
        depth = int(match[1]) if match else above
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            is_bias = name.rpartition(".")[2] == "bias"
            decayed = not isinstance(module, NORM_TYPES) and (decay_biases or not is_bias)
            # one rate needs no group per depth: fused optimisers launch once per group
            key = (depth if layer_decay < 1 else above, decayed, is_bias and bias_rate != 1)
            groups.setdefault(key, {"params": []})["params"].append(parameter)
    if not groups:
        raise InputError(f"--freeze {freeze}: nothing is left to train. Cure: --freeze stage3 or less")
    for (depth, decayed, is_bias), group in groups.items():
        group["lr"] = learning_rate * layer_decay ** (above - depth) * (bias_rate if is_bias else 1.0)
        group["weight_decay"] = weight_decay if decayed else 0.0
        where = f"depth {depth}, " if layer_decay < 1 else ""
        group["name"] = f"{where}{'decayed' if decayed else 'not decayed'}{', biases' if is_bias else ''}"
    return [groups[key] for key in sorted(groups, key=lambda key: (key[0], not key[1], key[2]))]


def describe_groups(groups: list[dict[str, Any]]) -> str:
    """Text for the log, one line per group."""
    return "\n".join(
        f"{group['name']}: {len(group['params'])} tensors, {sum(p.numel() for p in group['params']):,} parameters, "
        f"learning rate {group['lr']:.3g}, weight decay {group['weight_decay']:.3g}"
        for group in groups
    )
