"""Random box of random area and shape, resized to one size (the "Inception" crop).

Szegedy et al., "Going deeper with convolutions" (2015): 8 to 100 % of the area, aspect ratio 3/4 to 4/3.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import RandomizableTransform

from monai_ext.errors import InputError
from monai_ext.transforms.box_crop import Box, BoxCrop
from monai_ext.transforms.box_resize import check_interpolation, resize_box
from monai_ext.transforms.drawn_transform import OwnState, check_range

TRIES = 10
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)


def draw_box(
    random: np.random.RandomState,
    shape: Sequence[int],
    size: Sequence[int],
    area: Sequence[float] = AREA,
    aspect: Sequence[float] = ASPECT,
    keep_aspect: bool = True,
) -> Box:
    """Draw a box inside an image.

    The share of the image's area (volume) is uniform in `area`; the ratio of every edge to the first, measured against
    the same ratio of the result, is log-uniform in `aspect`, so that objects are stretched by no more than that. A box
    that does not fit is drawn again, up to ten times; then the largest box of an allowed shape is taken at the centre.

    Args:
        random: where numbers come from.
        shape: voxels of the image per axis.
        size: voxels of the result per axis.
        area: least and largest share, in (0, 1].
        aspect: least and largest ratio.
        keep_aspect: measure the ratio in voxels. Else relative to the image, whose own shape then counts as right: for
            volumes, whose axes differ in resolution.

    Returns:
        First voxels of all axes, then those after the last.
    """
    # plain numbers: on so few, numpy takes longer than the resizing of a small picture
    axes, total = len(shape), math.prod(shape)
    right = size if keep_aspect else shape
    low, high = math.log(aspect[0]), math.log(aspect[1])
    unit = math.prod(right) ** (-1 / axes)  # makes a box of the right shape one of volume 1
    for _ in range(TRIES):
        edge = unit * (total * random.uniform(area[0], area[1])) ** (1 / axes)
        stretch = [0.0, *(random.uniform(low, high) for _ in range(axes - 1))]
        mean = sum(stretch) / axes
        edges = [round(edge * n * math.exp(s - mean)) for n, s in zip(right, stretch, strict=True)]
        if all(1 <= e <= n for e, n in zip(edges, shape, strict=True)):
            start = [int(random.random_sample() * (n - e + 1)) for e, n in zip(edges, shape, strict=True)]
            return (*start, *map(operator.add, start, edges))
    return largest_box(shape, size, aspect, keep_aspect)


def largest_box(
    shape: Sequence[int], size: Sequence[int], aspect: Sequence[float] = (1.0, 1.0), keep_aspect: bool = True
) -> Box:
    """Largest centred box whose shape is within `aspect` of that of the result (see `draw_box`)."""
    right = np.asarray(size if keep_aspect else shape, dtype=np.float64)
    stretch = np.log(np.asarray(shape) / right)
    stretch = np.clip(stretch - stretch[0], math.log(aspect[0]), math.log(aspect[1]))
    edges = right * np.exp(stretch)
    edges *= min(np.asarray(shape) / edges)
    whole = [min(max(round(float(edge)), 1), int(n)) for edge, n in zip(edges, shape, strict=True)]
    start = [(int(n) - edge) // 2 for edge, n in zip(whole, shape, strict=True)]
    return (*start, *(s + edge for s, edge in zip(start, whole, strict=True)))


class RandResizedCrop(OwnState, RandomizableTransform):
    """Array form of `RandResizedCropd`, for one tensor `[C, *spatial]`; no record for an inverse is kept.

    Args:
        size, area, aspect, interpolation, keep_aspect: as in `RandResizedCropd`.
    """

    def __init__(
        self,
        size: Sequence[int],
        area: Sequence[float] = AREA,
        aspect: Sequence[float] = ASPECT,
        interpolation: str = "bilinear",
        keep_aspect: bool | None = None,
    ) -> None:
        super().__init__(prob=1.0)
        self.size = tuple(int(n) for n in size)
        self.area, self.aspect = _checked(type(self).__name__, area, aspect)
        self.interpolation = check_interpolation(type(self).__name__, interpolation)
        self.keep_aspect = len(self.size) == 2 if keep_aspect is None else keep_aspect
        self.box: Box = ()

    def randomize(self, data: Any) -> None:
        """Draw the box for a spatial shape."""
        self.box = draw_box(self.R, data, self.size, self.area, self.aspect, self.keep_aspect)

    def __call__(self, image: torch.Tensor, randomize: bool = True) -> torch.Tensor:
        if randomize:
            self.randomize(image.shape[1:])
        return resize_box(image, self.box, self.size, self.interpolation)


class RandResizedCropd(BoxCrop):
    """Random box of random area and shape, resized to `size`.

    Args:
        keys, size, interpolation, allow_missing_keys: as in `BoxCrop`.
        area: least and largest share of the image's area (volume), in (0, 1].
        aspect: least and largest ratio of the box's edges, relative to that of `size`.
        prob: chance of a random box; else the largest centred box of the shape of `size`.
        keep_aspect: measure the ratio in voxels; else relative to the image's own shape. None: in 2D only, because the
            axes of volumes differ in resolution.

    Raises:
        InputError: an argument is out of bounds, or (when called) an image has another number of axes than `size`.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        size: Sequence[int],
        area: Sequence[float] = AREA,
        aspect: Sequence[float] = ASPECT,
        interpolation: str = "bilinear",
        prob: float = 1.0,
        keep_aspect: bool | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, size, interpolation, prob, allow_missing_keys)
        self.area, self.aspect = _checked(type(self).__name__, area, aspect)
        self.keep_aspect = len(self.size) == 2 if keep_aspect is None else keep_aspect

    def box_of_shape(self, shape: Sequence[int]) -> Box:
        return draw_box(self.R, shape, self.size, self.area, self.aspect, self.keep_aspect)

    def box_of_rest(self, shape: Sequence[int]) -> Box:
        return largest_box(shape, self.size, keep_aspect=self.keep_aspect)


def _checked(
    owner: str, area: Sequence[float], aspect: Sequence[float]
) -> tuple[tuple[float, float], tuple[float, float]]:
    if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
        raise InputError(f"{owner}: area must be two shares, 0 < low <= high <= 1, found {list(area)}. Cure: [0.08, 1]")
    if len(aspect) != 2 or aspect[0] <= 0:
        raise InputError(f"{owner}: aspect must be two numbers above 0, found {list(aspect)}. Cure: [0.75, 1.333]")
    return (float(area[0]), float(area[1])), check_range(owner, "aspect", aspect)
