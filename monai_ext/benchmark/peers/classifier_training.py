"""A training step of SE-ResNeXt101-32x4d: only the network and its layout differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from monai_ext.benchmark.interleaved import Task
from monai_ext.benchmark.peers.work import OURS, Work, timm_classifier
from monai_ext.engines import host_memory

MONAI = "MONAI SEResNext101"
TIMM, TIMM_COMPILED = "timm seresnext101_32x4d", "timm compiled"


def make(
    only: str = "",
    device: str = "cpu",
    batch_size: int = 8,
    edge: int = 224,
    layers: Sequence[int] = (3, 4, 23, 3),
    bfloat16: bool = False,
    classes: int = 1000,
) -> Work:
    """Forward pass, cross-entropy with label smoothing, backward pass and a step of SGD with momentum.

    Ours is channels last and keeps freed memory, as in the bundle; the peer runs as it comes from MONAI and returns
    freed memory to the system, as processes do by default.

    Args:
        only: side to build; empty builds all.
        device: `cpu` or a CUDA device.
        batch_size, edge: of the pictures `[B, 3, edge, edge]`.
        layers: blocks per stage.
        bfloat16: forward passes of all sides under autocast.
        classes: outputs.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, edge, edge, generator=generator).to(device)
    labels = torch.randint(0, classes, (batch_size,), generator=generator).to(device)
    work = Work(only)

    def ours() -> Task:
        from monai_ext.networks.se_resnext import SeResNeXt
        from monai_ext.planning.class_plan import architecture

        torch.manual_seed(0)
        network = SeResNeXt(2, 3, classes, **architecture("se-resnext101-32x4d") | {"layers": tuple(layers)})
        layout = torch.channels_last
        network = network.to(device).to(memory_format=layout)  # type: ignore[call-overload]
        step = _step(network, images.contiguous(memory_format=layout), labels, bfloat16)
        return Task(step, lambda: _without_result(host_memory.keep_freed(device)))

    def monai() -> Task:
        from monai.networks.nets import SEResNext101

        torch.manual_seed(0)
        network = SEResNext101(layers=tuple(layers), spatial_dims=2, in_channels=3, num_classes=classes).to(device)
        step = _step(network, images, labels, bfloat16)
        return Task(step, lambda: _without_result(host_memory.return_freed()))

    work.add(OURS, ours)

    def timm(compile: bool) -> Task:
        torch.manual_seed(0)
        network: Any = timm_classifier(num_classes=classes).to(device, memory_format=torch.channels_last)
        laid_out = images.contiguous(memory_format=torch.channels_last)
        network = torch.compile(network) if compile else network
        step = _step(network, laid_out, labels, bfloat16)
        return Task(step, lambda: _without_result(host_memory.keep_freed(device)))

    work.add(MONAI, monai)
    work.add(TIMM, lambda: timm(False))
    work.add(TIMM_COMPILED, lambda: timm(True))
    return work


def _without_result(_: object) -> tuple[()]:
    return ()


def _step(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, bfloat16: bool) -> Callable[[], None]:
    from monai_ext.engines.optimizers import make_optimizer

    network.train()
    # a small rate: random labels teach nothing, and values that overflow would be timed instead
    optimizer = make_optimizer(network.parameters(), "sgd", 1e-5, weight_decay=6.1e-5, momentum=0.875)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
            logits = network(images)
        F.cross_entropy(logits.float(), labels, label_smoothing=0.1).backward()
        optimizer.step()

    return step
