"""Grey values of slices brought to the scale of a trained EM model."""

from __future__ import annotations

import numpy as np

from monai_ext.datasets.em_stack import scaled
from monai_ext.errors import InputError
from monai_ext.planning.em_plan import EmPlan

OUTSIDE, LEAST_SPAN = 2.0, 0.05  # of grey values scaled to -1 to 1, between their 1st and 99th percentile


def scaled_as_in_training(images: np.ndarray, plan: EmPlan, where: str) -> np.ndarray:
    """Slices `[N, H, W]` as float32; refuses grey values of another scale than those of the training.

    Raises:
        InputError: the slices are smaller than the receptive field, or their grey values would predict nonsense.
    """
    plan.check_slice(images.shape[1], images.shape[2], where)
    result = scaled(images, plan.value_range)
    low, high = np.percentile(result, [1, 99])
    if low < -OUTSIDE or high > OUTSIDE or (high - low < LEAST_SPAN and images.dtype != np.uint8):
        seen, (least, most) = np.percentile(images, [1, 99]), plan.value_range
        raise InputError(
            f"{where}: grey values from {seen[0]:g} to {seen[1]:g} do not fit the model, which was trained with "
            f"{least:g} to {most:g}. Cure: save it with the type and scale of the training stack"
        )
    return result
