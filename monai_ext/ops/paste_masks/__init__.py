"""Painting of predicted masks, each a small grid of probabilities in a box, into an image.

The last step of Mask R-CNN (He et al. 2017). Only the window of each box is touched, so that the cost follows the
painted area instead of masks times image.
"""

from __future__ import annotations

import math

import torch

from monai_ext.ops import forms
from monai_ext.ops.paste_masks import reference

NAME = "paste_masks"


def paste_masks(
    probabilities: torch.Tensor, boxes: torch.Tensor, height: int, width: int, threshold: float = 0.5
) -> torch.Tensor:
    """Label map of masks that do not overlap: the first of them that claims a pixel keeps it.

    The pixel in row v and column u has its centre at (u + 0.5, v + 0.5). Within the window
    [floor(x0), ceil(x1)) x [floor(y0), ceil(y1)) of its box, cut to the image, a mask claims the pixels where it is at
    least `threshold`, interpolated linearly between the centres of its P x Q cells and falling to zero half a cell
    outside of the box::

        column = (u + 0.5 - x0) / (x1 - x0) * Q - 0.5        row = (v + 0.5 - y0) / (y1 - y0) * P - 0.5

    Args:
        probabilities: `[R, P, Q]` float32, bfloat16 or float16 (float64 in plain torch), in descending order of score;
            NaN claims nothing.
        boxes: `[R, 4]` floating, (x0, y0, x1, y1) in pixel edges. Boxes that are not finite, or without positive width
            and height, stay empty.
        height: rows of the image, at least 0.
        width: columns of the image, at least 0.
        threshold: positive.

    Returns:
        `[height, width]` int32: 0 for none, r + 1 for mask r. Has no gradient. No host synchronisation on CUDA.

    Raises:
        ValueError: shapes, dtypes, devices, sizes or the threshold do not fit.
    """
    if probabilities.ndim != 3 or tuple(boxes.shape) != (probabilities.shape[0], 4):
        raise ValueError(
            f"probabilities must be [R, P, Q] and boxes [R, 4], got {tuple(probabilities.shape)} and "
            f"{tuple(boxes.shape)}"
        )
    _check(probabilities, boxes, height, width, threshold)
    return _paste(probabilities.detach(), boxes.detach(), height, width, float(threshold))


def paste_mask(
    probability: torch.Tensor, box: torch.Tensor, height: int, width: int, threshold: float = 0.5
) -> tuple[torch.Tensor, torch.Tensor]:
    """Window of one mask, whatever else lies there: for masks that may overlap.

    Same rule as `paste_masks`. The size of the window must be known on the host: of many masks on a CUDA device, move
    probabilities and boxes to the processor at once, before.

    Args:
        probability: `[P, Q]` floating.
        box: `[4]` floating, (x0, y0, x1, y1) in pixel edges.
        height: rows of the image, at least 0.
        width: columns of the image, at least 0.
        threshold: positive.

    Returns:
        window `[h, w]` bool (empty if the box is outside of the image or degenerate) and corner `[2]` int64 on the
        processor: its first row and column in the image.

    Raises:
        ValueError: shapes, dtypes, devices, sizes or the threshold do not fit.
    """
    if probability.ndim != 2 or tuple(box.shape) != (4,):
        raise ValueError(
            f"probability must be [P, Q] and box [4], got {tuple(probability.shape)} and {tuple(box.shape)}"
        )
    _check(probability, box, height, width, threshold)
    edges = box.detach().double().tolist()
    top, bottom, left, right = window_of(edges, height, width)
    plain = probability.dtype == torch.float64
    form = reference if plain else forms.implementation(NAME, probability.device)
    with torch.no_grad(), forms.on_device_of(probability):
        window = form.paste_mask(probability.detach(), edges, (top, bottom, left, right), float(threshold))
    return window, torch.tensor([top, left])


# the size of what it returns depends on values
paste_mask.not_compiled = True  # type: ignore[attr-defined]


def window_of(box: list[float], height: int, width: int) -> tuple[int, int, int, int]:
    """First row, stop row, first column, stop column of a box (x0, y0, x1, y1) in an image; zeros if there is none."""
    x0, y0, x1, y1 = box
    if not (math.isfinite(x0 + y0 + x1 + y1) and x1 > x0 and y1 > y0):
        return 0, 0, 0, 0
    top, bottom = max(math.floor(y0), 0), min(math.ceil(y1), height)
    left, right = max(math.floor(x0), 0), min(math.ceil(x1), width)
    return (top, bottom, left, right) if bottom > top and right > left else (0, 0, 0, 0)


def _check(masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int, threshold: float) -> None:
    if not masks.is_floating_point() or not boxes.is_floating_point() or masks.device != boxes.device:
        raise ValueError(
            f"masks and boxes must be floating and on one device, got {masks.dtype} on {masks.device} and "
            f"{boxes.dtype} on {boxes.device}"
        )
    if masks.shape[0] and min(masks.shape[-2:]) < 1:
        raise ValueError(f"masks must have at least one cell, got {tuple(masks.shape)}")
    if height < 0 or width < 0 or not threshold > 0:
        raise ValueError(
            f"height and width must not be negative and threshold be positive, got {height}, {width}, {threshold}"
        )


@torch.library.custom_op("monai_ext::paste_masks", mutates_args=())
def _paste(probabilities: torch.Tensor, boxes: torch.Tensor, height: int, width: int, threshold: float) -> torch.Tensor:
    plain = probabilities.dtype == torch.float64
    form = reference if plain else forms.implementation(NAME, probabilities.device)
    with forms.on_device_of(probabilities):
        return form.paste_masks(probabilities, boxes, height, width, threshold)


@_paste.register_fake
def _(probabilities: torch.Tensor, boxes: torch.Tensor, height: int, width: int, threshold: float) -> torch.Tensor:
    return probabilities.new_empty((height, width), dtype=torch.int32)
