"""A small classifier with its plan and images drawn for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from monai_ext.networks.se_resnext import network_from_class_plan
from monai_ext.planning.class_plan import ARCHITECTURES, ClassPlan


def make_plan(**changes: Any) -> ClassPlan:
    plan = ClassPlan(
        dataset="drawn",
        classes=("disc", "square", "stripe"),
        multi_label=False,
        spatial_dims=2,
        channels=3,
        image_size=(40, 32),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.3),
        arch="se-resnext-narrow",
        **{**ARCHITECTURES["se-resnext-narrow"], "layers": (1, 1, 1, 1)},
    )
    return replace(plan, **changes)


def normalised(images: torch.Tensor, plan: ClassPlan) -> torch.Tensor:
    """As in training, written out."""
    low, high = plan.value_range
    shape = (-1, *(1,) * plan.spatial_dims)
    scaled = (images.double() - low) / (high - low)
    return ((scaled - torch.tensor(plan.mean).view(shape)) / torch.tensor(plan.std).view(shape)).float()


def drawn_images(plan: ClassPlan, count: int) -> torch.Tensor:
    """Smooth uint8 images `[N, C, *S]` that differ from each other more than noise does."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, plan.channels, *(4,) * plan.spatial_dims, generator=generator)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[plan.spatial_dims]
    return (255 * nn.functional.interpolate(coarse, plan.image_size, mode=mode)).to(torch.uint8)


def brightest_channel(images: torch.Tensor) -> torch.Tensor:
    """A label that can be learnt: int64 `[N]`."""
    return images.float().flatten(2).mean(2).argmax(1)


def warmed_network(plan: ClassPlan, steps: int = 0) -> nn.Module:
    """Norms with the statistics of images; after some steps of training outputs that lie apart as well."""
    torch.manual_seed(0)
    network = network_from_class_plan(plan)
    images = drawn_images(plan, 16)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(network(normalised(images, plan)), brightest_channel(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the mean of all batches: one is enough
    with torch.no_grad():
        network(normalised(images, plan))
        if steps:
            # probabilities near 0 and 1 would hide differences
            head: Any = network.last_linear
            scale = 1.5 / network.eval()(normalised(images, plan)).std()
            head.weight *= scale
            head.bias *= scale
    return network.eval()
