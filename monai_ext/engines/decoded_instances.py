"""An image and its objects in memory, of which a sample takes a part at the size it wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from monai_ext.datasets.instance_dataset import InstanceCase
from monai_ext.errors import InputError
from monai_ext.planning.instance_plan import InstancePlan
from monai_ext.preprocessing.instance_image import read_plan_image, to_unit, unit_limits
from monai_ext.transforms.box_resize import resize_box
from monai_ext.transforms.label_resize import resize_labels

LARGEST_UINT16 = 2**16 - 1


@dataclass(frozen=True)
class UnitPicture:
    """An image in memory that is brought to 0 to 1 where a part of it is asked for.

    Attributes:
        image: `[C, H, W]` uint8 or float32.
        limits: values that become 0 and 1.
    """

    image: torch.Tensor
    limits: tuple[float, float]

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(self.image.shape[1:])

    @property
    def channels(self) -> int:
        return len(self.image)

    def crop_resized(self, box: Sequence[int], size: Sequence[int], interpolation: str = "bilinear") -> torch.Tensor:
        """`[C, *size]` float32 of 0 to 1 of the box (y0, x0, y1, x1); antialiased where it shrinks."""
        part = to_unit(self.image[:, box[0] : box[2], box[1] : box[3]], self.limits)
        if tuple(part.shape[1:]) == tuple(size):
            return part
        return resize_box(part, (0, 0, *part.shape[1:]), size, interpolation)


@dataclass(frozen=True)
class LabelPicture:
    """A label map in memory, `values` `[H, W]` int32 or uint16, that gives parts as `[1, *size]` int32."""

    values: np.ndarray

    @property
    def size(self) -> tuple[int, ...]:
        return self.values.shape

    def crop_resized(self, box: Sequence[int], size: Sequence[int], interpolation: str = "nearest") -> torch.Tensor:
        """`[1, *size]` int32 of the box (y0, x0, y1, x1)."""
        part = self.values[box[0] : box[2], box[1] : box[3]].astype(np.int32)
        return resize_labels(torch.from_numpy(part)[None], (0, 0, *part.shape), size)


@dataclass(frozen=True)
class DecodedCase:
    """An image and its objects as they are kept between samples.

    Attributes:
        picture: the image.
        regions: label map of objects, 1 to G, and regions of crowds, numbered from there on.
        labels: `[G + Z + 1]` int64 by number; 0 for no object and for crowds.
        boxes: `[G, 4]` float32 in image pixels.
    """

    picture: UnitPicture
    regions: LabelPicture
    labels: torch.Tensor
    boxes: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.picture.image.nbytes + self.regions.values.nbytes + self.labels.nbytes + self.boxes.nbytes


def decode_case(case: InstanceCase, plan: InstancePlan) -> DecodedCase:
    """Read the image and draw its objects, once for all samples that show it.

    Raises:
        InputError: a file is missing or damaged, or the image has another size than its objects.
    """
    image = read_plan_image(case.path, plan)
    if tuple(image.shape[1:]) != tuple(case.size):
        raise InputError(
            f"{case.path}: image has {image.shape[1]}x{image.shape[2]} pixels, its annotations {case.size[0]}x"
            f"{case.size[1]} (height x width). Cure: the image that was annotated"
        )
    limits = unit_limits(image, plan)
    if len(image) == 3 and torch.equal(image[0], image[1]) and torch.equal(image[0], image[2]):
        image = image[:1].clone()
    found = case.instances()
    regions, crowds = _with_crowds(case, found.label_map)
    if found.label_map.size and len(found.labels) + crowds <= LARGEST_UINT16:
        regions = regions.astype(np.uint16)
    labels = np.concatenate([[0], found.labels, np.zeros(crowds, dtype=np.int64)])
    return DecodedCase(
        UnitPicture(image, limits),
        LabelPicture(regions),
        torch.from_numpy(labels.astype(np.int64)),
        torch.from_numpy(found.boxes()),
    )


def _with_crowds(case: InstanceCase, label_map: np.ndarray) -> tuple[np.ndarray, int]:
    """The label map with a number of its own for each crowd region, and how many there are."""
    crowds = [annotation for annotation in case.annotations if annotation.crowd]
    if not crowds:
        return label_map, 0
    flat = label_map.T.reshape(-1).copy()  # columns first, as COCO counts
    free, first = flat == 0, int(label_map.max(initial=0)) + 1
    for number, annotation in enumerate(crowds):
        positions = annotation.runs(*case.size).positions()
        flat[positions[free[positions]]] = first + number
    return np.ascontiguousarray(flat.reshape(label_map.shape[::-1]).T), len(crowds)
