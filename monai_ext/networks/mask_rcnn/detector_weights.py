"""Weights of a detector, or of its backbone alone, from files of other libraries, every tensor accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_ext.errors import InputError
from monai_ext.networks.mask_rcnn.detector_fitting import adapt, fit_stem, renamed_tensors, take_out_new_layers
from monai_ext.networks.mask_rcnn.detector_report import Body, DetectorWeightReport, body_of, first
from monai_ext.networks.mask_rcnn.detector_sources import (
    BGR255,
    PIXELS,
    RGB,
    DetectorFile,
    PixelRule,
    read_detector_file,
)
from monai_ext.networks.mask_rcnn.residual_names import BODY
from monai_ext.planning.instance_plan import ARCHITECTURES, InstancePlan

PARTS = ("backbone.body", "backbone.fpn", "rpn", "box_head", "mask_head")
COUNTER = ".num_batches_tracked"
LEAST_SHARE = 0.5  # of the backbone's values; below, a file that is not taken strictly is another network's
# of a plan, beside mean and std: without them weights fit but compute something else
SETTINGS = (
    "norm", "stem_stride", "stride_in_1x1", "normalisation", "percentiles", "value_range", "box_head",
    "anchor_sizes", "aspect_ratios", "anchor_offset", "round_anchors", "canonical_size", "canonical_level",
    "pool_sampling", "pool_aligned",
)  # fmt: skip


def load_detector_weights(
    network: nn.Module,
    path: str | Path,
    strict: bool = True,
    new_head: bool = False,
    backbone_only: bool = False,
    pixels: str = "auto",
) -> DetectorWeightReport:
    """Fill a detector from a file of torchvision, detectron2 or this package, or its backbone from a ResNet, in place.

    Nothing is left out silently. Parts that the file has nothing of stay as they are. Fitted are: the order of the
    classes (background first), rows of the background that are not used, the epsilon of frozen norms, channels and
    range that the first convolution was trained on, the number of its channels (`stem_for_channels`). Where the file
    has other classes, or another number of anchors per cell, the layers that depend on it stay as they are.

    Args:
        network: `MaskRCNN`; unchanged if an error is raised.
        path: `.pt`, `.pth`, `.safetensors`, or a `.pkl` of numpy arrays; torchvision's, timm's, NVIDIA's and MONAI's
            classifiers, `R-50.pkl` of Caffe2, and detectors.
        strict: every other tensor of a part that the file has must fit. Without it what fits is taken, the norms of
            another kind apart, and the rest is reported.
        new_head: leave the layers of the classes as they are even if their number agrees by chance.
        backbone_only: take the residual network alone, without the pyramid.
        pixels: what the first convolution was trained on: `rgb` or `bgr`, with ImageNet's mean and deviation,
            `rgb255` or `bgr255`, of values up to 255 less the mean. `auto`: RGB, but for detectron2 what the file says;
            if it says nothing, `bgr255` (Caffe) where the network has the stride in the 1x1 convolutions.

    Raises:
        InputError: the file cannot be read, is of no library that is known, or does not fit: the message says how many
            tensors are missing, without a place or of another shape, with the first names, and which keys make the
            network like the file's. With and without `strict`: values that are not finite, no backbone in the file,
            or less than half of its values would be loaded.
        ValueError: `pixels` is unknown.
    """
    if pixels != "auto" and pixels not in PIXELS:
        raise ValueError(f"pixels {pixels!r} is not one of auto, {', '.join(PIXELS)}")
    file = read_detector_file(path)
    wanted = network.state_dict()
    state, theirs, dropped = renamed_tensors(file, backbone_only)
    file_body, own_body = body_of(state, file.source.merged_norms), body_of(wanted)
    if file_body is None:
        raise InputError(f"{path}: holds no backbone. Cure: a file of a whole detector, or of a ResNet")
    adaptations = adapt(state, file)
    rule = PIXELS[pixels] if pixels != "auto" else _pixels(file, network)
    stem = fit_stem(state, wanted, rule)
    new_layers = take_out_new_layers(state, wanted, new_head)

    other_norm = own_body is not None and _kind(file_body.norm) != _kind(own_body.norm)
    filled: dict[str, torch.Tensor] = {}
    mismatched, skipped = [], []
    for name, tensor in state.items():
        if name.endswith(COUNTER) and name not in wanted:
            dropped.append(theirs[name])
        elif name not in wanted:
            skipped.append(name)
        elif tensor.shape != wanted[name].shape:
            mismatched.append(f"{name} (file {list(tensor.shape)}, network {list(wanted[name].shape)})")
        elif not (other_norm and _is_norm(name, wanted)):
            filled[name] = tensor
    new_parts = tuple(part for part in PARTS if not any(name.startswith(f"{part}.") for name in state))
    kept = tuple(f"{part}." for part in (*new_parts, *new_layers))
    missing = [n for n in wanted if n not in state and not n.startswith(kept) and not n.endswith(COUNTER)]
    settings = _other_settings(file, network, new_parts)

    faults: dict[str, list[str]] = {}
    if strict:
        faults = {
            "of the network are not in the file": missing,
            "of the file have no place": [theirs[name] for name in skipped],
            "have another shape": mismatched,
        }
        stride = file.source.stride_in_1x1
        if stride is not None and _stride_in_1x1(network) not in (None, stride):
            where = "first 1x1" if stride else "3x3"
            faults[f"need their stride in the {where} convolution"] = [f"{BODY}layer2.0.conv2.weight"]
    faults["of the file hold values that are not finite"] = [theirs[n] for n, v in filled.items() if not _finite(v)]
    _refuse(file, file_body, own_body, network, state, faults)
    share = _values(filled) / max(1, _values(wanted))
    if share < LEAST_SHARE:
        raise InputError(
            f"{path}: only {share:.0%} of the backbone's values are in the file ({file_body.describe()}; the network "
            f"is {_words(own_body)}). Cure: {_cure(file, file_body, own_body, network, state)}"
        )
    network.load_state_dict({**wanted, **filled})
    return DetectorWeightReport(
        path=str(path), source=file.origin, place=file.place,
        architecture=file_body.describe(), loaded=tuple(filled), skipped=tuple(theirs[name] for name in skipped),
        mismatched=tuple(mismatched), missing=tuple(missing), replaced_head=bool(new_layers), adapted_stem=stem,
        new_parts=new_parts, new_layers=new_layers, adaptations=tuple(adaptations), dropped=tuple(dropped),
        other_settings=settings,
    )  # fmt: skip


def plan_options_of_detector_weights(path: str | Path, pixels: str = "auto") -> dict[str, Any]:
    """Fields of `InstancePlan` without which a network fits the file's tensors but computes something else.

    Always `norm`, `stem_stride`, `stride_in_1x1`, `normalisation`, `value_range`, `mean` and `std` (of RGB); of a whole
    detector also how it pools, codes anchors and heads its boxes. Anchor sizes are those of a model of this package
    only, which has its `plan.json` beside it: boxes are coded in sides of the anchors, so that others serve too.

    Args:
        path, pixels: as `load_detector_weights`; detectron2's files that do not tell are taken for Caffe's.

    Raises:
        InputError: see `load_detector_weights`.
    """
    file = read_detector_file(path)
    beside = Path(path).with_name("plan.json")
    if file.source.is_own and beside.is_file():
        plan = InstancePlan.load(beside)
        return {name: getattr(plan, name) for name in (*SETTINGS, "mean", "std")}
    state, _, _ = renamed_tensors(file, False)
    body = body_of(state, file.source.merged_norms)
    options: dict[str, Any] = {"norm": "group" if body is not None and body.norm == "group" else "frozen_batch"}
    if file.source.is_own:
        return options | {"box_head": _box_head(state)}
    rule = PIXELS[pixels] if pixels != "auto" else file.source.pixels or BGR255
    stride = file.source.stride_in_1x1
    options |= {
        "stem_stride": 2,
        "stride_in_1x1": rule == BGR255 if stride is None else stride,
        "normalisation": "range",
        "value_range": (0.0, 255.0),
        "mean": rule.mean,
        "std": rule.std,
    }
    if any(name.startswith("rpn.") for name in state):
        options |= {**file.source.settings, "box_head": _box_head(state)}
    return options


def _pixels(file: DetectorFile, network: nn.Module) -> PixelRule:
    """What the file's first convolution was trained on; detectron2's files do not all tell."""
    if file.source.is_own:
        return RGB
    if file.source.pixels is not None:
        return file.source.pixels
    return BGR255 if _stride_in_1x1(network) else RGB


def _kind(norm: str) -> str:
    return "batch" if norm == "affine" else norm


def _is_norm(name: str, wanted: dict[str, torch.Tensor]) -> bool:
    """Whether a weight or a bias is a norm's: those are vectors, and so are the biases beside kernels."""
    weight = wanted.get(name.rpartition(".")[0] + ".weight")
    return wanted[name].ndim == 1 and weight is not None and weight.ndim == 1


def _finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    return bool(torch.isfinite(tensor if tensor.itemsize > 1 else tensor.float()).all())


def _values(state: dict[str, torch.Tensor]) -> int:
    """How many numbers the backbone has."""
    return sum(tensor.numel() for name, tensor in state.items() if name.startswith(BODY))


def _stride_in_1x1(network: nn.Module) -> bool | None:
    """Where the network's bottlenecks have their stride; None for other blocks."""
    modules = dict(network.named_modules())
    conv, third = modules.get(f"{BODY}layer2.0.conv1"), modules.get(f"{BODY}layer2.0.conv3")
    if not isinstance(conv, nn.Conv2d) or third is None:
        return None
    return conv.stride[0] > 1


def _box_head(state: dict[str, torch.Tensor]) -> str:
    return "conv" if any(name.startswith("box_head.convs.") for name in state) else "fc"


def _other_settings(file: DetectorFile, network: nn.Module, new_parts: tuple[str, ...]) -> tuple[str, ...]:
    """Where anchors and pooling differ from those that the file's heads were trained with."""
    if "rpn" in new_parts:
        return ()
    pool, anchors = getattr(network, "pool", None), getattr(network, "anchors", None)
    own = {
        "pool_sampling": getattr(pool, "sampling", None),
        "pool_aligned": getattr(pool, "aligned", None),
        "canonical_size": getattr(pool, "canonical_size", None),
        "canonical_level": getattr(pool, "canonical_level", None),
        "anchor_offset": getattr(anchors, "offset", None),
        "round_anchors": getattr(anchors, "round", None),
    }
    return tuple(
        f"{name} (file {value}, network {own[name]})"
        for name, value in file.source.settings.items()
        if own.get(name) is not None and own[name] != value
    )


def _refuse(
    file: DetectorFile,
    file_body: Body,
    own_body: Body | None,
    network: nn.Module,
    state: dict[str, torch.Tensor],
    faults: dict[str, list[str]],
) -> None:
    listed = [f"  - {len(names)} tensors {rule}: {first(names)}" for rule, names in faults.items() if names]
    if listed:
        lines = "\n".join(listed)
        raise InputError(
            f"{file.path}: file is {file_body.describe()}, of {file.origin}; "
            f"the network is {_words(own_body)}:\n{lines}\n"
            f"Cure: {_cure(file, file_body, own_body, network, state)}"
        )


def _words(body: Body | None) -> str:
    return "no residual network" if body is None else body.describe()


def _cure(
    file: DetectorFile,
    file_body: Body,
    own_body: Body | None,
    network: nn.Module,
    state: dict[str, torch.Tensor],
) -> str:
    """The keys that make a network like the file's, where there are some."""
    if file.variant:
        return "its backbone alone, --backbone_ckpt; this network has no second convolution in the RPN"
    keys = []
    if own_body is not None:
        shape = (file_body.block, file_body.layers, file_body.base_features)
        if shape != (own_body.block, own_body.layers, own_body.base_features):
            fits = [n for n, a in ARCHITECTURES.items() if (a["block"], a["layers"], a["base_features"]) == shape]
            if not fits:
                return "a file of the network's own architecture"
            keys.append(f"--arch {fits[0]}")
        if _kind(file_body.norm) != _kind(own_body.norm):
            keys.append("--norm group" if file_body.norm == "group" else "--norm frozen_batch")
    stride = file.source.stride_in_1x1
    if stride is not None and _stride_in_1x1(network) not in (None, stride):
        keys.append(f"--stride_in_1x1 {str(stride).lower()}")
    modules = dict(network.named_modules())
    if any(n.startswith("box_head.") for n in state) and _box_head(state) != (
        "conv" if "box_head.convs.0" in modules else "fc"
    ):
        keys.append(f"--box_head {_box_head(state)}")
    return " ".join(keys) or "a file of the network's own architecture"
