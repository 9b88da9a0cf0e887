"""Slices resized to a network's output and laid on a zero border, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812


def resized(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Bilinear resize of `[B, C, H, W]` to (h, w), pixel centres at halves, not smoothed; itself if it fits."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images.float(), size=tuple(size), mode="bilinear", align_corners=False)


def resized_labels(labels: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Binary labels `[B, 1, H, W]` resized as the images are and cut at 0.5; int64."""
    if tuple(labels.shape[-2:]) == tuple(size):
        return labels.long()
    return (resized(labels.float(), size) >= 0.5).long()


def on_canvas(images: torch.Tensor, output_size: Sequence[int], margin: int) -> torch.Tensor:
    """Images `[B, C, H, W]` resized to `output_size` with `margin` zero pixels around; 0 is mid grey."""
    return F.pad(resized(images, output_size), [margin] * 4)
