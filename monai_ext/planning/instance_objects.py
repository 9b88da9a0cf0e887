"""Boxes of a dataset's objects, and how many there are together in an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from monai_ext.datasets.instance_dataset import InstanceCase

SAMPLED_IMAGES = 4096  # of more images a sample is looked at: sizes of objects are known well enough then
COUNT_PERCENTILES = (25, 50, 75, 90, 95, 99, 100)
CAPS = (100, 200, 300, 500)  # detections per image
OVERLAPS = (0.3, 0.5, 0.7)
ROWS_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class ObjectBoxes:
    """Boxes of objects without crowd regions.

    Attributes:
        boxes: `[G, 4]` float64 (x0, y0, x1, y1), image pixels.
        images: `[G]` int64, image of each, ascending.
        sizes: `[N, 2]` float64 (height, width) of the images.
    """

    boxes: np.ndarray
    images: np.ndarray
    sizes: np.ndarray

    @property
    def image_sizes(self) -> np.ndarray:
        """`[G, 2]` float64 (height, width) of each object's image."""
        return self.sizes[self.images]

    @property
    def counts(self) -> np.ndarray:
        """`[N]` int64, objects of each image."""
        return np.bincount(self.images, minlength=len(self.sizes))

    def fit_factors(self, size: Sequence[int]) -> np.ndarray:
        """`[G]` float64, network pixels per image pixel where images are fitted into (height, width)."""
        return (np.asarray(size, dtype=np.float64) / self.image_sizes).min(axis=1)

    def beyond(self, cap: int) -> tuple[int, int]:
        """Images with more objects than that, and how many objects are in excess."""
        excess = (self.counts - cap).clip(0)
        return int((excess > 0).sum()), int(excess.sum())

    def crowding(self) -> np.ndarray:
        """`[G]` float64, the largest IoU of each box with another of its image; 0 for single ones.

        Two objects whose boxes overlap more than `box_nms` cannot both be found. Boxes are compared image by image, a
        thousand rows at a time.
        """
        largest = np.zeros(len(self.boxes))
        bounds = np.concatenate([[0], np.cumsum(self.counts)])
        for first, last in pairwise(bounds.tolist()):
            every = self.boxes[first:last]
            areas = (every[:, 2:] - every[:, :2]).prod(axis=1)
            for start in range(first, last if last - first > 1 else first, ROWS_AT_ONCE):
                rows = self.boxes[start : min(start + ROWS_AT_ONCE, last)]
                low = np.maximum(rows[:, None, :2], every[None, :, :2])
                shared = (np.minimum(rows[:, None, 2:], every[None, :, 2:]) - low).clip(0).prod(axis=2)
                own = np.arange(len(rows))
                overlaps = shared / (areas[start - first + own][:, None] + areas[None] - shared)
                overlaps[own, start - first + own] = 0
                largest[start : start + len(rows)] = overlaps.max(axis=1)
        return largest

    def describe(self) -> str:
        """Text for the console: what caps on detections and suppression cost."""
        total, lines = len(self.boxes), list[str]()
        counts = np.percentile(self.counts, COUNT_PERCENTILES)
        listed = ", ".join(f"{p} %: {value:.4g}" for p, value in zip(COUNT_PERCENTILES, counts, strict=True))
        lines.append(f"objects per image: {listed}")
        for cap in CAPS:
            images, excess = self.beyond(cap)
            if images:
                share = f"{100 * excess / total:.1f} %"
                lines.append(
                    f"max_detections {cap}: {images} images hold more, {excess} objects ({share}) are out of reach"
                )
        crowding = self.crowding()
        shares = ", ".join(f"{limit:g}: {100 * float((crowding > limit).mean()):.2f} %" for limit in OVERLAPS)
        lines.append(f"objects whose box overlaps another by IoU above {shares}")
        return "\n".join(lines)


def object_boxes(cases: Sequence[InstanceCase], most: int = SAMPLED_IMAGES, seed: int = 0) -> ObjectBoxes:
    """Boxes of the objects of images.

    Args:
        cases: images; label maps are opened, boxes of COCO files are taken as stated, cut to the image.
        most: images; of more a sample is drawn.
        seed: of the sample.

    Raises:
        InputError: a label map cannot be read.
    """
    if len(cases) > most:
        chosen = np.random.default_rng(seed).choice(len(cases), most, replace=False)
        cases = [cases[place] for place in np.sort(chosen)]
    boxes = [np.zeros((0, 4))]
    for case in cases:
        if case.label_path is not None:
            boxes.append(case.instances().boxes().astype(np.float64))
            continue
        height, width = case.size
        stated = np.array([one.box for one in case.annotations if not one.crowd], dtype=np.float64).reshape(-1, 4)
        cut = stated.clip(0, (width, height, width, height))
        boxes.append(cut[(cut[:, 2:] > cut[:, :2]).all(axis=1)])
    images = np.repeat(np.arange(len(cases)), [len(found) for found in boxes[1:]])
    sizes = np.array([case.size for case in cases], dtype=np.float64).reshape(-1, 2)
    return ObjectBoxes(np.concatenate(boxes), images, sizes)
