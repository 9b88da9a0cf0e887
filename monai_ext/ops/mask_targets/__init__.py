"""Targets of a mask head: what an object's mask looks like in the grid of its region, read from a map of instances.

Mask R-CNN (He et al. 2017) trains on RoIAlign of each object's binary mask. Here all objects of an image share one map
of labels, which stays as it is: no plane is made for an object.
"""

from __future__ import annotations

import torch

from monai_ext.ops import forms

NAME = "mask_targets"


def mask_targets(
    label_maps: torch.Tensor, rois: torch.Tensor, ids: torch.Tensor, size: int, sampling: int = 0
) -> torch.Tensor:
    """Aligned RoIAlign of `label_maps[image] == id` to `size` x `size` bins, at least one half.

    Along each axis, with c0 = x0 - 1/2 and bins of b = (x1 - x0) / size, sample i of n in bin p lies at
    c0 + p b + (i + 1/2) b / n. Samples below -1 or beyond the image's size count as 0, the others are clamped to the
    image and interpolated linearly; a bin is the mean of its n x n samples. Since that is a product of one weight per
    axis, the cost follows the pixels of the region. Means within 2e-5 below one half count as one half, so that ties,
    which boxes on pixel edges make often, do not hang on rounding.

    Args:
        label_maps: `[N, H, W]` int32, an instance per value (other integers are converted); 0 is background.
        rois: `[R, 5]` floating, (image, x0, y0, x1, y1) in pixel edges.
        ids: `[R]` integer, the instance that each region shall show; 0 or less: none.
        size: bins along each axis.
        sampling: samples per bin and axis; 0: as many as the bin has pixels, rounded up, for each axis.

    Returns:
        `[R, size, size]` float32, 0 or 1. Regions that are not finite, have no area or sides above 2**20 pixels, and
        those without an instance, are all 0. Has no gradient. No host synchronisation on CUDA.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or (on processors) a region names an image that is not there;
            elsewhere reading it would wait for the device, so such targets are 0.
    """
    if label_maps.ndim != 3 or rois.ndim != 2 or rois.shape[1] != 5 or ids.shape != rois.shape[:1]:
        raise ValueError(
            f"needs label maps [N, H, W], rois [R, 5] and ids [R], got {tuple(label_maps.shape)}, "
            f"{tuple(rois.shape)} and {tuple(ids.shape)}"
        )
    if not _is_integer(label_maps) or not _is_integer(ids) or not rois.is_floating_point():
        raise ValueError(
            f"label maps and ids must be integer and rois floating, got {label_maps.dtype}, {ids.dtype}, {rois.dtype}"
        )
    if not label_maps.device == rois.device == ids.device:
        raise ValueError(
            f"label maps, rois and ids must be on one device, got {label_maps.device}, {rois.device}, {ids.device}"
        )
    if size < 1 or sampling < 0:
        raise ValueError(f"size must be at least 1 and sampling not negative, got {size} and {sampling}")
    return _targets(label_maps, rois.detach(), ids, size, sampling)


def _is_integer(tensor: torch.Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


@torch.library.custom_op("monai_ext::mask_targets", mutates_args=())
def _targets(label_maps: torch.Tensor, rois: torch.Tensor, ids: torch.Tensor, size: int, sampling: int) -> torch.Tensor:
    images = rois[:, 0]
    if rois.device.type == "cpu" and rois.shape[0] and not (images.min() >= 0 and images.max() < label_maps.shape[0]):
        raise ValueError(f"rois name images from {images.min()} to {images.max()}, there are {label_maps.shape[0]}")
    form = forms.implementation(NAME, rois.device)
    with forms.on_device_of(rois):
        return form.mask_targets(label_maps.int().contiguous(), rois.double(), ids.int(), size, sampling)


@_targets.register_fake
def _(label_maps: torch.Tensor, rois: torch.Tensor, ids: torch.Tensor, size: int, sampling: int) -> torch.Tensor:
    return rois.new_empty((rois.shape[0], size, size), dtype=torch.float32)
