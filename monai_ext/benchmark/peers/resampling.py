"""Resampling of a CT-sized image and its labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from monai_ext.benchmark.interleaved import Task
from monai_ext.benchmark.peers.work import NNUNET, OURS, Work

MARGIN = 8  # voxels at each face that count as border, where the rules for what lies outside differ


def make(
    only: str = "",
    labels: bool = False,
    shape: Sequence[int] = (120, 512, 512),
    spacing: Sequence[float] = (5.0, 0.7, 0.7),
    new_spacing: Sequence[float] = (2.5, 0.8, 0.8),
) -> Work:
    """Image by cubic B-splines, or a label map of four classes, to another spacing, as nnU-Net v2 does by default.

    Args:
        only: side to build; empty builds all.
        labels: the label map instead of the image.
        shape: of the input in voxels (z, y, x).
        spacing, new_spacing: mm; anisotropic ones are resampled slice by slice.
    """
    image = drawn_image(shape)
    label = np.digitize(drawn_image(shape, noise=0.0), (-0.7, 0.3, 1.0)).astype(np.uint8)
    new_shape = [round(s / t * n) for s, t, n in zip(spacing, new_spacing, shape, strict=True)]
    work = Work(only)

    def ours() -> Task:
        from monai_ext.ops.spline_resample import resample_image, resample_labels
        from monai_ext.preprocessing.resample import needs_separate_axis

        axis = needs_separate_axis(spacing, new_spacing)
        if labels:
            return Task(lambda: resample_labels(label, new_shape, axis))
        return Task(lambda: resample_image(image[None], new_shape, axis))

    def nnunet() -> Task:
        from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

        # the arguments of its default plans
        rule = {"order_z": 0, "force_separate_z": None}
        if labels:
            call = (label[None].astype(np.int8), new_shape, spacing, new_spacing, True, 1)
        else:
            call = (image[None], new_shape, spacing, new_spacing, False, 3)
        return Task(lambda: resample_data_or_seg_to_shape(*call, **rule))

    work.add(OURS, ours)
    work.add(NNUNET, nnunet)

    def notes() -> dict[str, str]:
        if NNUNET not in work.tasks:
            return {}
        found, expected = (np.asarray(work.tasks[side].run()) for side in (OURS, NNUNET))
        if labels:
            return {NNUNET: f"labels agree in {(found == expected[0]).mean():.4%} of the voxels"}
        inside = (slice(None), *(slice(MARGIN, n - MARGIN) if n > 2 * MARGIN else slice(None) for n in new_shape))
        difference = float(np.abs(found[inside] - expected[inside]).max()) / float(image.max() - image.min())
        return {NNUNET: f"largest difference inside {difference:.2g} of the range"}

    work.notes = notes
    return work


def drawn_image(shape: Sequence[int], noise: float = 0.1) -> np.ndarray:
    """A smooth random volume `[*shape]` float32 with a standard deviation near 1, plus noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 1, *(max(4, n // 16) for n in shape), generator=generator)
    smooth = F.interpolate(coarse, tuple(shape), mode="trilinear")[0, 0]
    return smooth.add_(torch.randn(smooth.shape, generator=generator), alpha=noise).numpy()
