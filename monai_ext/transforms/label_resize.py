"""Resizing of label maps: every pixel takes one label, none are mixed."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def resize_labels(label_map: torch.Tensor, box: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """Cut `box` (y0, x0, y1, x1) out of a label map `[..., H, W]` and resize it to `size`; a copy of the same type.

    A pixel takes the label of the pixel that its centre lies in, so that objects stay where `resize_box` puts those of
    the image.
    """
    part = label_map[..., box[0] : box[2], box[1] : box[3]]
    if tuple(part.shape[-2:]) == tuple(size):
        return part.clone()
    rows, columns = nearest_places(part.shape[-2], size[0]), nearest_places(part.shape[-1], size[1])
    if len(rows) < part.shape[-2]:  # single pixels are slower to copy than rows: as few as possible
        return part.index_select(-2, rows).index_select(-1, columns)
    return part.index_select(-1, columns).index_select(-2, rows)


def nearest_places(length: int, new_length: int) -> torch.Tensor:
    """`[new_length]` int64, which of `length` pixels holds the centre of each of `new_length` over the same extent."""
    return ((2 * torch.arange(new_length) + 1) * length).div_(2 * new_length, rounding_mode="floor")
