"""Tensors of another library brought under the names, and into the order and shape, of this package's detector."""

from __future__ import annotations

import torch

from monai_ext.errors import InputError
from monai_ext.networks.mask_rcnn.detector_sources import EPS, DetectorFile, PixelRule
from monai_ext.networks.mask_rcnn.residual_names import BODY
from monai_ext.networks.stem_channels import stem_for_channels

STEM = f"{BODY}conv1.weight"
CLASS_LAYERS = ("box_head.cls_score", "box_head.bbox_pred", "mask_head.logits")
ANCHOR_LAYERS = ("rpn.cls_logits", "rpn.bbox_pred")


def renamed_tensors(
    file: DetectorFile, backbone_only: bool
) -> tuple[dict[str, torch.Tensor], dict[str, str], list[str]]:
    """Tensors under the network's names, the file's names of these, and the file's names of what is no weight.

    Args:
        file: to be loaded.
        backbone_only: whatever is not of the residual network counts as no weight.

    Raises:
        InputError: two tensors of the file have the same name in the network.
    """
    state: dict[str, torch.Tensor] = {}
    theirs: dict[str, str] = {}
    dropped: list[str] = []
    for name, tensor in file.tensors.items():
        own = file.source.own_name(name)
        if own is None or (backbone_only and not own.startswith(BODY)):
            dropped.append(name)
            continue
        if own in state:
            raise InputError(f"{file.path}: {name} is there under two names. Cure: a file of one library")
        state[own], theirs[own] = tensor, name
    return state, theirs, dropped


def adapt(state: dict[str, torch.Tensor], file: DetectorFile) -> list[str]:
    """Bring classes and norms into this package's order, in place; return what was done."""
    done = []
    scores = [state.get(f"box_head.cls_score.{what}") for what in ("weight", "bias")]
    rows = scores[0].shape[0] if scores[0] is not None else 0
    if file.source.background_last and rows:
        for what, tensor in zip(("weight", "bias"), scores, strict=True):
            if tensor is not None:
                state[f"box_head.cls_score.{what}"] = tensor.roll(1, 0)
        done.append("background moved from the last row to the first")
    if file.source.background_rows and rows:
        for layer, each in (("box_head.bbox_pred", 4), ("mask_head.logits", 1)):
            for name in (f"{layer}.weight", f"{layer}.bias"):
                if name in state and state[name].shape[0] == each * rows:
                    state[name] = state[name][each:]
        done.append("rows of the background's box and mask left out")
    if file.source.merged_norms:
        for name in [n for n in state if n.endswith(".bias") and n.replace(".bias", ".weight") in state]:
            mean, var = name.replace(".bias", ".running_mean"), name.replace(".bias", ".running_var")
            if mean not in state:
                state[mean], state[var] = torch.zeros_like(state[name]), torch.full_like(state[name], 1 - EPS)
        done.append("norms without statistics got mean 0 and variance 1")
    elif file.source.eps != EPS:
        for name in [n for n in state if n.endswith(".running_var")]:
            state[name] = state[name].double().add(file.source.eps - EPS).float()
        done.append(f"variances lowered by {EPS - file.source.eps:g}, since they were used with an epsilon of 0")
    return done


def fit_stem(state: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], rule: PixelRule) -> str:
    """Bring the first convolution to RGB values from 0 to 1 and to the network's channels; return what was done."""
    weight, done = state[STEM], []
    if rule.reversed and weight.shape[1] == 3:
        weight = weight.flip(1)
        done.append("channels from BGR to RGB")
    if rule.factor != 1:
        weight = weight.float() * rule.factor
        done.append(f"times {rule.factor:g}")
    own = wanted[STEM].shape
    if weight.shape[1] != own[1] and (weight.shape[0], weight.shape[2:]) == (own[0], own[2:]):
        weight, change = stem_for_channels(weight, own[1])
        done.append(change)
    state[STEM] = weight
    return ", ".join(done)


def take_out_new_layers(
    state: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], new_head: bool
) -> tuple[str, ...]:
    """Take the layers out of `state` that depend on classes or anchors which the network has others of."""
    layers: list[str] = []
    for group, leader in ((ANCHOR_LAYERS, "rpn.cls_logits.weight"), (CLASS_LAYERS, "box_head.cls_score.weight")):
        given, own = state.get(leader), wanted.get(leader)
        if given is None or own is None:
            continue
        if given.shape[0] != own.shape[0] or (new_head and group is CLASS_LAYERS):
            layers.extend(layer for layer in group if f"{layer}.weight" in state)
    for layer in layers:
        state.pop(f"{layer}.weight", None)
        state.pop(f"{layer}.bias", None)
    return tuple(layers)
