"""A training step of the U-Net of small 3D patches: only the network and its layout differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from monai_ext.benchmark.interleaved import Task
from monai_ext.benchmark.peers.work import OURS, UnavailableError, Work
from monai_ext.engines import host_memory

EAGER = "MONAI DynUNet"
COMPILED = "MONAI DynUNet compiled"


def make(
    only: str = "",
    device: str = "cpu",
    bfloat16: bool = False,
    patch_size: Sequence[int] = (40, 56, 40),
    batch_size: int = 2,
    features: Sequence[int] = (32, 64, 128, 256),
    classes: int = 3,
) -> Work:
    """Forward pass, loss, backward pass and a step of SGD with Nesterov momentum on random patches.

    Both networks have the same layers (two convolutions, instance norms and leaky ReLUs a level, strides of 2), and
    both are trained with this package's Dice and cross-entropy, so that only the networks are compared. Ours runs in
    the layout that the bundle uses, `channels_last_3d`, and keeps freed memory as the bundle does; the peers return it
    to the system as processes do by default.

    Args:
        only: side to build; empty builds all.
        device: `cpu` or a CUDA device.
        bfloat16: forward passes of all sides under autocast.
        patch_size, batch_size, features, classes: of the input and the networks; one entry of `features` a level.
    """
    levels = len(features)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 1, *patch_size, generator=generator).to(device)
    labels = torch.randint(0, classes, (batch_size, 1, *patch_size), generator=generator).to(device)
    work = Work(only)

    def ours() -> Task:
        from monai_ext.networks.plan_unet import PlanUNet

        strides = [(1, 1, 1), *((2, 2, 2) for _ in range(levels - 1))]
        kernels = [(3, 3, 3)] * levels
        network = PlanUNet(3, 1, classes, strides, kernels, features)
        layout = torch.channels_last_3d
        network = network.to(device).to(memory_format=layout)  # type: ignore[call-overload]
        step = _step(network, network, images.contiguous(memory_format=layout), labels, bfloat16)
        return Task(step, lambda: _without_result(host_memory.keep_freed(device)))

    def dynunet() -> torch.nn.Module:
        from monai.networks.nets.dynunet import DynUNet

        strides = [1] + [2] * (levels - 1)
        return DynUNet(
            3,
            1,
            classes,
            kernel_size=[3] * levels,
            strides=strides,
            upsample_kernel_size=strides[1:],
            filters=list(features),
            norm_name=("INSTANCE", {"affine": True}),
        ).to(device)

    def eager() -> Task:
        network = dynunet()
        step = _step(network, network, images, labels, bfloat16)
        return Task(step, lambda: _without_result(host_memory.return_freed()))

    def compiled() -> Task:
        network = dynunet()
        step = _step(network, torch.compile(network), images, labels, bfloat16)
        try:
            step()  # compiling is no part of a step
        except Exception as error:
            raise UnavailableError(f"torch.compile: {str(error).strip().splitlines()[0]}") from error
        return Task(step, lambda: _without_result(host_memory.return_freed()))

    work.add(OURS, ours)
    work.add(EAGER, eager)
    work.add(COMPILED, compiled)
    return work


def _without_result(_: object) -> tuple[()]:
    return ()


def _step(network: torch.nn.Module, forward: Any, images: torch.Tensor, labels: torch.Tensor, bfloat16: bool) -> Any:
    from monai_ext.engines.optimizers import make_optimizer
    from monai_ext.losses.dice_cross_entropy import DiceCrossEntropy

    network.train()
    loss = DiceCrossEntropy(batch_dice=True)
    # a small rate: random labels teach nothing, and values that overflow would be timed instead
    optimizer = make_optimizer(network.parameters(), "sgd", 1e-4, weight_decay=3e-5, momentum=0.99)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
            value = loss(forward(images), labels)
        value.backward()
        optimizer.step()

    return step
