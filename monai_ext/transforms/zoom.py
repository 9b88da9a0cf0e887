"""Zoom in: the centre of the patch, resized to the whole."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from monai.utils import ensure_tuple_rep

from monai_ext.errors import InputError
from monai_ext.transforms.drawn_transform import DrawnTransform, Params, check_range, warn_does_nothing
from monai_ext.transforms.separable import (
    apply_along_axis,
    cubic_matrix,
    linear_matrix,
    nearest_index,
    resize_positions,
)

MODES = ("cubic", "linear", "nearest")


def zoom_in(image: torch.Tensor, scale: float, mode: str) -> torch.Tensor:
    """Resize the centred `round(scale * n)` voxels per axis of `image` (`[C, *spatial]`) to its own shape.

    `cubic` is a true cubic convolution on every axis (separable, also in 3D); values beyond the crop are not looked at.
    """
    for axis in range(1, image.ndim):
        size = image.shape[axis]
        part = max(1, round(scale * size))
        if part == size:
            continue
        image = image.narrow(axis, (size - part) // 2, part)
        if mode == "nearest":
            image = image.index_select(axis, nearest_index(part, size).to(image.device))
        else:
            build = cubic_matrix if mode == "cubic" else linear_matrix
            image = apply_along_axis(image, build(part, resize_positions(part, size)).to(image.device), axis)
    return image


class RandZoomInd(DrawnTransform):
    """Enlarge the centre of the patch, all axes alike; nothing is padded because nothing shrinks.

    Args:
        keys: images and labels `[C, *spatial]`.
        prob: chance per sample.
        scale: range of the part of the edge that is kept, in (0, 1]; uniform.
        mode: `cubic`, `linear` or `nearest`, one for all or one per key.
        allow_missing_keys: skip keys that a sample lacks.

    Raises:
        InputError: an argument is out of bounds.
    """

    def __init__(
        self,
        keys: str | Sequence[str] = ("image", "label"),
        prob: float = 0.15,
        scale: Sequence[float] = (0.7, 1.0),
        mode: str | Sequence[str] = ("cubic", "nearest"),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.scale = check_range("RandZoomInd", "scale", scale)
        modes = ensure_tuple_rep(mode, len(self.keys))
        if self.scale[0] == 0 or self.scale[1] > 1:
            raise InputError(f"RandZoomInd: scale must be in (0, 1], found {list(scale)}. Cure: e.g. [0.7, 1]")
        if any(m not in MODES for m in modes):
            raise InputError(f"RandZoomInd: mode must be of {list(MODES)}, found {list(modes)}. Cure: choose of them")
        self.modes = dict(zip(self.keys, modes, strict=True))
        if self.scale[0] == 1:
            warn_does_nothing("RandZoomInd", "scale is 1", "Set scale to e.g. [0.7, 1]")

    def draw(self, image: torch.Tensor) -> Params:
        return {"scale": float(self.R.uniform(*self.scale))}

    def apply_to_key(self, key: Hashable, image: torch.Tensor, params: Params) -> torch.Tensor:
        return zoom_in(image, params["scale"], self.modes[key])

    def apply(self, image: torch.Tensor, params: Params) -> torch.Tensor:
        return zoom_in(image, params["scale"], "cubic")
