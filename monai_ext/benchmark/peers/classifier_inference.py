"""Logits of SE-ResNeXt101-32x4d for a batch of pictures: only how the network is run differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from monai_ext.benchmark.interleaved import Task
from monai_ext.benchmark.peers.work import OURS, Work, timm_classifier
from monai_ext.engines import host_memory

MONAI = "MONAI SEResNext101"
TIMM, TIMM_COMPILED = "timm seresnext101_32x4d", "timm compiled"


def make(
    only: str = "",
    device: str = "cpu",
    batch_size: int = 1,
    edge: int = 224,
    layers: Sequence[int] = (3, 4, 23, 3),
    half: bool = False,
    classes: int = 1000,
) -> Work:
    """One call of the network in evaluation mode, with the same weights and pictures on all sides.

    Ours runs as the bundle's inference does: on a CPU with norms folded into weights that are packed once, on a GPU
    channels last and as a CUDA graph; freed memory is kept. The peer runs as it comes from MONAI.

    Args:
        only: side to build; empty builds all.
        device: of network and pictures.
        batch_size, edge: of the pictures `[B, 3, edge, edge]`.
        layers: blocks per stage.
        half: forward passes of all sides under autocast, bfloat16.
        classes: outputs.
    """
    from monai.networks.nets import SEResNext101

    torch.manual_seed(0)
    peer = SEResNext101(layers=tuple(layers), spatial_dims=2, in_channels=3, num_classes=classes).eval()
    for name, parameter in peer.named_parameters():
        if name.endswith("conv3.adn.N.weight"):
            # a drawn network doubles its values from block to block: logits of a trained one are moderate
            torch.nn.init.constant_(parameter, 0.3)
    peer = peer.to(device)
    images = torch.randn(batch_size, 3, edge, edge, generator=torch.Generator().manual_seed(0)).to(device)
    work = Work(only)

    def ours() -> Task:
        from monai_ext.networks.cuda_graph_call import CudaGraphCall
        from monai_ext.networks.prepacked_classifier import prepacked_classifier
        from monai_ext.networks.se_resnext import SeResNeXt
        from monai_ext.planning.class_plan import architecture

        options = architecture("se-resnext101-32x4d") | {"layers": tuple(layers)}
        trained = SeResNeXt(2, 3, classes, **options).to(device)
        trained.load_state_dict(peer.state_dict())
        trained = trained.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # cuDNN's convolutions add a bias in a pass of its own: there the norm stays, one pass with what follows it
        network = CudaGraphCall(trained) if images.is_cuda else prepacked_classifier(trained)
        laid_out = images.contiguous(memory_format=torch.channels_last)
        return Task(_call(network, laid_out, half), lambda: _without_result(host_memory.keep_freed(device)))

    def monai() -> Task:
        return Task(_call(peer, images, half), lambda: _without_result(host_memory.return_freed()))

    work.add(OURS, ours)

    def timm(compile: bool) -> Task:
        """Drawn weights of its own: what is computed costs the same."""
        network: Any = timm_classifier(num_classes=classes).eval().to(device, memory_format=torch.channels_last)
        laid_out = images.contiguous(memory_format=torch.channels_last)
        network = torch.compile(network) if compile else network
        return Task(_call(network, laid_out, half), lambda: _without_result(host_memory.keep_freed(device)))

    work.add(MONAI, monai)
    work.add(TIMM, lambda: timm(False))
    work.add(TIMM_COMPILED, lambda: timm(True))

    def notes() -> dict[str, str]:
        found, expected = (torch.as_tensor(work.tasks[side].run()) for side in (OURS, MONAI))
        difference = float((found - expected).abs().max())
        return {OURS: f"largest difference {difference:.2g} on logits up to {float(expected.abs().max()):.2g}"}

    work.notes = notes
    return work


def _call(network: torch.nn.Module, images: torch.Tensor, half: bool) -> Callable[[], torch.Tensor]:
    @torch.inference_mode()
    def run() -> torch.Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            return network(images)

    return run


def _without_result(_: object) -> tuple[()]:
    return ()
