"""Detections of a batch as one tensor, which is what exported networks and checks of their output need."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.networks.mask_rcnn.structures import Detections

HEADER = 6  # x0, y0, x1, y1, score, label


def pack_detections(detections: Sequence[Detections], mask_size: int) -> torch.Tensor:
    """`[B, 6 + M * M, D]` float32: box, score, label and mask of each; D of the image that has most, at least 1.

    Args:
        detections: of every image.
        mask_size: M, pixels of a mask along each axis.

    Raises:
        ValueError: masks are of another size, or there is no image.
    """
    if not detections:
        raise ValueError("detections of at least one image are needed")
    for one in detections:
        if one.masks.shape != (one.scores.shape[0], mask_size, mask_size):
            raise ValueError(
                f"masks must be {mask_size} x {mask_size}, one per detection, got {tuple(one.masks.shape)} for "
                f"{one.scores.shape[0]} detections"
            )
    most = max(1, *(one.scores.shape[0] for one in detections))
    packed = detections[0].boxes.new_zeros((len(detections), HEADER + mask_size**2, most), dtype=torch.float32)
    for place, one in zip(packed, detections, strict=True):
        count = one.scores.shape[0]
        place[:4, :count] = one.boxes.t()
        place[4, :count] = one.scores
        place[5, :count] = one.labels
        place[HEADER:, :count] = one.masks.flatten(1).t()
    return packed


def unpack_detections(packed: torch.Tensor) -> list[Detections]:
    """Detections of every image; the inverse of `pack_detections`.

    Args:
        packed: `[B, 6 + M * M, D]`; a label of 0 is no detection.

    Raises:
        ValueError: the second axis does not hold a header and a square mask.
    """
    size = round(max(packed.shape[1] - HEADER, 0) ** 0.5) if packed.ndim == 3 else 0
    if size < 1 or packed.shape[1] != HEADER + size**2:
        raise ValueError(f"packed detections must be [B, 6 + M * M, D], got {tuple(packed.shape)}")
    found = []
    for one in packed.transpose(1, 2):
        rows = one[one[:, 5] > 0].float()
        masks = rows[:, HEADER:].reshape(-1, size, size)
        found.append(Detections(rows[:, :4], rows[:, 4], rows[:, 5].long(), masks))
    return found
