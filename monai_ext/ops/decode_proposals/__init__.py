"""Proposals of a region proposal network in one pass: decode, clip to the image, tell which are of use."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.ops import forms

NAME = "decode_proposals"


def decode_proposals(
    deltas: torch.Tensor,
    anchors: torch.Tensor,
    image_size: Sequence[int],
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    min_size: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes that deltas lead to from anchors (Girshick et al. 2014; Ren et al. 2015), within the image.

    The logarithms of the scales are clamped to log(1000 / 16) as in `networks.mask_rcnn.box_coder`, of which this is
    the form without a gradient.

    Args:
        deltas: `[K, 4]` (tx, ty, tw, th), floating.
        anchors: `[K, 4]` (x0, y0, x1, y1) on the same device.
        image_size: height and width of the image without its padding, in pixels.
        weights: by which the deltas are divided, positive.
        min_size: sides of a valid box are longer than this, in pixels.

    Returns:
        boxes `[K, 4]` float32 (float64 if both are), and `[K]` bool: whether all numbers were finite and both sides are
        longer than `min_size` after clipping. Boxes that were not finite are all zero. No gradient.

    Raises:
        ValueError: shapes, types, devices or numbers do not fit.
    """
    for name, tensor in (("deltas", deltas), ("anchors", anchors)):
        if tensor.ndim != 2 or tensor.shape[1] != 4 or not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating [K, 4], got {tuple(tensor.shape)} {tensor.dtype}")
    if deltas.shape != anchors.shape or deltas.device != anchors.device:
        raise ValueError(
            f"there must be one anchor for each of {deltas.shape[0]} deltas on {deltas.device}, got "
            f"{anchors.shape[0]} on {anchors.device}"
        )
    if len(image_size) != 2 or min(image_size) < 0:
        raise ValueError(f"image_size must be height and width, got {tuple(image_size)}")
    if len(weights) != 4 or min(weights) <= 0:
        raise ValueError(f"weights must be 4 positive numbers, got {tuple(weights)}")
    kind = torch.float64 if deltas.dtype == anchors.dtype == torch.float64 else torch.float32
    height, width = image_size
    numbers = [float(number) for number in weights]
    return _decode(deltas.detach().to(kind), anchors.detach().to(kind), height, width, numbers, float(min_size))


@torch.library.custom_op("monai_ext::decode_proposals", mutates_args=())
def _decode(
    deltas: torch.Tensor, anchors: torch.Tensor, height: int, width: int, weights: list[float], min_size: float
) -> tuple[torch.Tensor, torch.Tensor]:
    deltas, anchors = deltas.contiguous(), anchors.contiguous()
    if deltas.shape[0] == 0:
        return torch.empty_like(deltas), deltas.new_empty(0, dtype=torch.bool)
    with forms.on_device_of(deltas):
        form = forms.implementation(NAME, deltas.device)
        return form.decode(deltas, anchors, height, width, weights, min_size)


@_decode.register_fake
def _(
    deltas: torch.Tensor, anchors: torch.Tensor, height: int, width: int, weights: list[float], min_size: float
) -> tuple[torch.Tensor, torch.Tensor]:
    boxes = torch.empty_like(deltas, memory_format=torch.contiguous_format)
    return boxes, deltas.new_empty(deltas.shape[0], dtype=torch.bool)
