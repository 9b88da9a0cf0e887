"""From predicted logits to labels on the grid of the raw image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F  # noqa: N812

from monai_ext.benchmark.interleaved import Task
from monai_ext.benchmark.peers.work import NNUNET, OURS, Work


def make(
    only: str = "",
    classes: int = 20,
    shape: Sequence[int] = (128, 256, 256),
    new_shape: Sequence[int] = (300, 512, 512),
) -> Work:
    """Linear resampling of the logits and the class of the largest one; nothing was cropped, nothing is written.

    Args:
        only: side to build; empty builds all.
        classes: channels of the logits.
        shape, new_shape: of the logits and of the raw image (z, y, x), isotropic.
    """
    logits = _drawn_logits(classes, shape)
    work = Work(only)

    def ours() -> Task:
        from monai_ext.ops.spline_resample import resample_logits_argmax

        return Task(lambda: resample_logits_argmax(logits, new_shape))

    def nnunet() -> Task:
        from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
        from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
        from nnunetv2.utilities.label_handling.label_handling import LabelManager

        names = {"background": 0, **{str(value): value for value in range(1, classes)}}
        resample = partial(resample_data_or_seg_to_shape, is_seg=False, order=1, order_z=0, force_separate_z=None)
        plans = SimpleNamespace(transpose_forward=[0, 1, 2], transpose_backward=[0, 1, 2])
        configuration = SimpleNamespace(spacing=[1.0] * 3, resampling_fn_probabilities=resample)
        properties = {
            "spacing": [1.0] * 3,
            "shape_after_cropping_and_before_resampling": list(new_shape),
            "shape_before_cropping": list(new_shape),
            "bbox_used_for_cropping": [[0, n] for n in new_shape],
        }
        manager = LabelManager(names, None)
        return Task(
            lambda: convert_predicted_logits_to_segmentation_with_correct_shape(
                logits, plans, configuration, manager, properties, num_threads_torch=torch.get_num_threads()
            )
        )

    work.add(OURS, ours)
    work.add(NNUNET, nnunet)
    return work


def _drawn_logits(classes: int, shape: Sequence[int]) -> torch.Tensor:
    """`[K, *shape]` float32: smooth regions in which mostly one class leads clearly, as a trained network gives."""
    generator = torch.Generator().manual_seed(0)
    coarse = 8 * torch.randn(1, classes, *(max(2, n // 32) for n in shape), generator=generator)
    return F.interpolate(coarse, tuple(shape), mode="trilinear")[0].contiguous()
