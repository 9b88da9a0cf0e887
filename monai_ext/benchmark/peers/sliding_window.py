"""Blending of overlapping windows, with a predictor that costs next to nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from monai_ext.benchmark.interleaved import Task
from monai_ext.benchmark.peers.work import OURS, Work

MONAI = "MONAI"


def make(
    only: str = "", device: str = "cpu", edge: int = 160, window: int = 64, classes: int = 3, labels: bool = False
) -> Work:
    """Gaussian blending with an overlap of a half, of logits or up to the label map.

    MONAI weights what the predictor returns in place, so the stand-in for a network copies every window into a buffer
    of its own, for both sides. MONAI gets one window a call, which is its fastest setting; ours two, as in the bundle.

    Args:
        only: side to build; empty builds all.
        device: of volume and sums.
        edge: of the volume in voxels.
        window: edge of a window.
        classes: channels of the logits.
        labels: compare up to the label map: ours by `segment`, MONAI's logits by `argmax`.
    """
    volume = torch.randn(1, 1, edge, edge, edge, generator=torch.Generator().manual_seed(0)).to(device)
    buffer = torch.empty(2, classes, window, window, window, device=device)
    bias = torch.linspace(-1, 1, classes, device=device).view(1, classes, 1, 1, 1)
    work = Work(only)

    def predictor(windows: torch.Tensor) -> torch.Tensor:
        return torch.mul(windows, bias, out=buffer[: len(windows)])

    def ours() -> Task:
        from monai_ext.inferers.window_inferer import WindowInferer

        inferer = WindowInferer((window,) * 3, sw_batch_size=2, overlap=0.5)
        call = inferer.segment if labels else inferer
        return Task(lambda: _without_gradients(lambda: call(volume, predictor)))

    def monai() -> Task:
        from monai.inferers import SlidingWindowInferer

        inferer = SlidingWindowInferer((window,) * 3, sw_batch_size=1, overlap=0.5, mode="gaussian")

        def run() -> Any:
            logits: Any = inferer(volume, predictor)
            return logits.argmax(1, keepdim=True) if labels else logits

        return Task(lambda: _without_gradients(run))

    work.add(OURS, ours)
    work.add(MONAI, monai)

    def notes() -> dict[str, str]:
        found, expected = (_without_gradients(work.tasks[side].run) for side in (OURS, MONAI))
        if labels:
            return {MONAI: f"labels agree in {float((found == expected).float().mean()):.4%} of the voxels"}
        return {MONAI: f"largest difference {float((found - expected).abs().max()):.2g}"}

    work.notes = notes
    return work


@torch.inference_mode()
def _without_gradients(run: Callable[[], Any]) -> Any:
    return run()
