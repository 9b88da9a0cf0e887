"""Prediction of small volumes, averaged over the eight mirrored versions."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from types import SimpleNamespace

import torch

from monai_ext.benchmark.interleaved import Task
from monai_ext.benchmark.peers.work import NNUNET, OURS, Work

HIPPOCAMPUS = ((31, 40, 24), (35, 50, 35), (43, 59, 45))  # smallest, median and largest


def make(
    only: str = "",
    device: str = "cpu",
    volumes: Sequence[Sequence[int]] = HIPPOCAMPUS,
    patch_size: Sequence[int] = (40, 56, 40),
    features: Sequence[int] = (32, 64, 128, 256),
    classes: int = 3,
) -> Work:
    """Logits of a few volumes, with one network and the same weights, in windows that overlap by a half.

    The peer's sums are of half precision, ours of single. Both compute the network in float32 on a CPU.

    Args:
        only: side to build; empty builds all.
        device: of network and volumes.
        volumes: shapes in voxels.
        patch_size: of a window.
        features: of the network, one entry a level; strides of 2 between levels.
        classes: channels of the logits.
    """
    from monai_ext.networks.plan_unet import PlanUNet

    torch.manual_seed(0)
    levels = len(features)
    strides = [(1, 1, 1), *((2, 2, 2) for _ in range(levels - 1))]
    network = PlanUNet(3, 1, classes, strides, [(3, 3, 3)] * levels, features).to(device).eval()
    images = [torch.randn(1, *shape, device=device) for shape in volumes]
    work = Work(only)
    work.always = f"{len(images)} volumes"

    def ours() -> Task:
        import copy

        from monai_ext.inferers.window_inferer import WindowInferer

        inferer = WindowInferer(patch_size, sw_batch_size=2, overlap=0.5, mirror_axes=(0, 1, 2))
        laid_out = copy.deepcopy(network).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

        @torch.inference_mode()
        def run() -> list[torch.Tensor]:
            return [inferer(image[None], laid_out)[0] for image in images]

        return Task(run)

    def nnunet() -> Task:
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        with contextlib.redirect_stdout(io.StringIO()):
            predictor = nnUNetPredictor(0.5, device=torch.device(device), allow_tqdm=False)
        predictor.network = network
        predictor.configuration_manager = SimpleNamespace(patch_size=list(patch_size))
        predictor.label_manager = SimpleNamespace(num_segmentation_heads=classes)
        predictor.allowed_mirroring_axes = (0, 1, 2)
        return Task(lambda: [predictor.predict_sliding_window_return_logits(image) for image in images])

    work.add(OURS, ours)
    work.add(NNUNET, nnunet)

    def notes() -> dict[str, str]:
        if NNUNET not in work.tasks:
            return {}
        pairs = list(zip(work.tasks[OURS].run(), work.tasks[NNUNET].run(), strict=True))  # type: ignore[call-overload]
        same = sum(int((a.argmax(0) == b.argmax(0)).sum()) for a, b in pairs)
        return {NNUNET: f"labels agree in {same / sum(a[0].numel() for a, _ in pairs):.4%} of the voxels"}

    work.notes = notes
    return work
