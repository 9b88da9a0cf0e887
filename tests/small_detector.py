"""A detector of few features, and images of discs for it."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import torch
from torch import nn

from monai_ext.networks.mask_rcnn.detector import MaskRCNN, network_from_instance_plan
from monai_ext.networks.mask_rcnn.structures import Targets
from monai_ext.planning.instance_plan import InstancePlan, architecture

DRAWN = {"rpn_batch": 64, "roi_batch": 32, "train_pre_nms": 200, "train_post_nms": 64}


def small_plan(**changed: Any) -> InstancePlan:
    """One anchor size per level, one channel, one class."""
    fields = {
        "dataset": "discs",
        "classes": ("disc",),
        "category_ids": (1,),
        "channels": 1,
        "mean": (0.0,),
        "std": (1.0,),
        "image_size": (64, 64),
        "arch": "resnet-tiny",
        **architecture("resnet-tiny"),
        "stem_stride": 1,
        "anchor_sizes": ((12,), (24,), (48,), (64,), (96,)),
        "canonical_size": 56.0,
        "rpn_pre_nms": 200,
        "rpn_post_nms": 100,
    }
    return InstancePlan(**{**fields, **changed})


def small_detector(plan: InstancePlan | None = None, **rules: Any) -> MaskRCNN:
    """With weights that depend on their names alone."""
    network = network_from_instance_plan(plan or small_plan(), **{**DRAWN, **rules})
    set_weights(network)
    return network


def set_weights(network: nn.Module) -> None:
    """Of matrices and kernels, by the name of each; about as large as those of the usual start."""
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            random = torch.Generator().manual_seed(crc32(name.encode()))
            scale = (
                0.03 if name.startswith(("rpn", "box_head.cls", "box_head.bbox")) else (2 / weight[0].numel()) ** 0.5
            )
            weight.data = scale * torch.randn(weight.shape, generator=random)


def discs(
    count: int, height: int = 64, width: int = 64, seed: int = 0, classes: int = 1
) -> tuple[torch.Tensor, Targets]:
    """Bright discs that do not cover each other, `[1, H, W]`; as many as there is room for."""
    random = torch.Generator().manual_seed(seed)
    label_map = torch.zeros(height, width, dtype=torch.int32)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    radius = min(8.0, 0.4 * (height * width / max(count, 1)) ** 0.5)
    for number in range(1, count + 1):
        cy, cx, r = torch.rand(3, generator=random).tolist()
        inside = (y - cy * height) ** 2 + (x - cx * width) ** 2 <= (radius * (0.6 + 0.4 * r)) ** 2
        label_map[inside & (label_map == 0)] = number
    image = 0.1 * torch.randn(1, height, width, generator=random) + (label_map > 0)
    return image, targets_of(label_map, classes)


def targets_of(label_map: torch.Tensor, classes: int = 1) -> Targets:
    """Boxes of a label map `[H, W]`; classes take turns."""
    ids = [number for number in label_map.unique().tolist() if number]
    boxes = torch.zeros(len(ids), 4)
    for box, number in zip(boxes, ids, strict=True):
        y, x = (label_map == number).nonzero().unbind(1)
        box[:] = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1])
    labels = torch.tensor([1 + number % classes for number in ids], dtype=torch.int64)
    return Targets(boxes, labels, torch.tensor(ids, dtype=torch.int32), label_map, torch.zeros(0, 4))
