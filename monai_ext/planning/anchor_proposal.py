"""Which anchors, enlargement and pyramid levels fit the objects of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SEARCHED_OBJECTS = 20000  # of more objects a sample is searched with
SIZES_PER_LEVEL = 2
STEPS_PER_OCTAVE = 8  # of the search
WANTED_COVERAGE = 0.95  # share of objects with an anchor of IoU 0.5
SCALES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
MEDIAN_CELLS, LEAST_CELLS = 10.0, 2.5  # of the finest level, that an object should be wide: half, and all but 5 %
LARGEST_CANONICAL = 56  # cells of the finest level: 224 pixels where these are 4, as for COCO


@dataclass(frozen=True)
class Coverage:
    """How well one choice of anchors fits the objects: of each object's best anchor on the grid there is.

    Attributes:
        name: of the choice.
        high, half: share of objects with IoU of at least 0.7 and 0.5.
        missed: share of objects below 0.3.
        mean: IoU.
    """

    name: str
    high: float
    half: float
    missed: float
    mean: float


def best_overlaps(
    boxes: np.ndarray,
    sizes: Sequence[Sequence[float]],
    strides: Sequence[int],
    grid_sizes: np.ndarray | None = None,
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    offset: float = 0.0,
    round_anchors: bool = False,
) -> np.ndarray:
    """IoU of each box with its best anchor.

    Of all anchors of one shape that in the cell nearest to the box's centre overlaps most, because both sides of the
    intersection shrink with the distance. So each shape costs as many operations as there are boxes, however many
    cells there are.

    Args:
        boxes: `[G, 4]` network pixels.
        sizes: per level.
        strides: per level.
        grid_sizes: `[G, 2]` (height, width) of each box's image, network pixels; None for grids without end.
        aspect_ratios, offset, round_anchors: see `InstancePlan`.

    Returns:
        `[G]` float64.
    """
    from monai_ext.networks.mask_rcnn.anchors import AnchorGrid

    grid = AnchorGrid(sizes, aspect_ratios, strides, offset, round_anchors)
    low, high = boxes[:, :2], boxes[:, 2:]
    centres, areas = (low + high) / 2, (high - low).prod(axis=1)
    best = np.zeros(len(boxes))
    for level, stride in enumerate(strides):
        last = np.inf if grid_sizes is None else np.ceil(grid_sizes[:, ::-1] / stride) - 1
        cells = np.clip(np.rint(centres / stride - offset), 0, last)
        middle = (cells + offset) * stride
        for shape in grid.at_origin(level).double().numpy():
            shared = np.minimum(high, middle + shape[2:]) - np.maximum(low, middle + shape[:2])
            overlap = shared.clip(0).prod(axis=1)
            np.maximum(best, overlap / (areas + (shape[2:] - shape[:2]).prod() - overlap), out=best)
    return best


def coverage_of(overlaps: np.ndarray, name: str) -> Coverage:
    """Shares of objects by the IoU `[G]` of their best anchor."""
    high, half, missed = ((overlaps >= 0.7).mean(), (overlaps >= 0.5).mean(), (overlaps < 0.3).mean())
    return Coverage(name, float(high), float(half), float(missed), float(overlaps.mean()))


def propose_anchors(
    boxes: np.ndarray,
    strides: Sequence[int],
    grid_sizes: np.ndarray | None = None,
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    offset: float = 0.0,
    round_anchors: bool = False,
) -> tuple[tuple[float, ...], ...]:
    """Anchor sizes: two per level, a factor of sqrt(2) apart, doubled from level to level.

    Of those with which 95 % of the objects have an anchor of IoU 0.5, the ones with the largest sum of this share and
    the mean IoU; eight smallest sizes per octave are tried, from one to sixteen cells of the finest level. Three sizes
    per level are tried where two cover less; where they do too, those that cover most are proposed.

    Args:
        boxes: `[G, 4]` network pixels.
        strides, grid_sizes, aspect_ratios, offset, round_anchors: see `best_overlaps`.
    """
    if len(boxes) > SEARCHED_OBJECTS:
        chosen = np.random.default_rng(0).choice(len(boxes), SEARCHED_OBJECTS, replace=False)
        boxes, grid_sizes = boxes[chosen], None if grid_sizes is None else grid_sizes[chosen]
    best: tuple[float, float] = (-1.0, -1.0)
    proposed: tuple[tuple[float, ...], ...] = ()
    for per_level in (SIZES_PER_LEVEL, SIZES_PER_LEVEL + 1):
        for sizes in _candidates(strides, per_level):
            overlaps = best_overlaps(boxes, sizes, strides, grid_sizes, aspect_ratios, offset, round_anchors)
            share = float((overlaps >= 0.5).mean())
            rank = (min(share, WANTED_COVERAGE), share + float(overlaps.mean()))
            if rank > best:
                best, proposed = rank, sizes
        if best[0] >= WANTED_COVERAGE:
            break
    return proposed


def propose_scale(edges: np.ndarray, stride: int) -> float:
    """Enlargement with which the median object is about 10 cells of the finest level wide.

    It is larger where 5 % of the objects would be less than 2.5 cells wide.

    Args:
        edges: `[G]` image pixels.
        stride: of the finest level, network pixels.
    """
    few, median = np.percentile(edges, (5, 50))
    wanted = max(MEDIAN_CELLS * stride / median, LEAST_CELLS * stride / few)
    return min(SCALES, key=lambda scale: abs(np.log(scale / wanted)))


def propose_canonical_size(edges: np.ndarray, stride: int) -> float:
    """Twice the 75th percentile: three quarters are then pooled from P2, the others, coarser, from seven cells or more.

    At most 56 cells of the finest level (COCO's 224 pixels), a multiple of 8 pixels.

    Args:
        edges: `[G]` network pixels.
        stride: of the finest level, network pixels.
    """
    wanted = min(2 * float(np.percentile(edges, 75)), LARGEST_CANONICAL * stride)
    return max(8.0, 8.0 * round(wanted / 8))


def _candidates(strides: Sequence[int], per_level: int) -> list[tuple[tuple[float, ...], ...]]:
    """Whole-number sizes with smallest ones from one to sixteen cells of the finest level."""
    found = []
    for step in range(4 * STEPS_PER_OCTAVE + 1):
        smallest = strides[0] * 2 ** (step / STEPS_PER_OCTAVE)
        sizes = tuple(
            tuple(float(round(smallest * 2 ** (part / per_level) * stride / strides[0])) for part in range(per_level))
            for stride in strides
        )
        if all(len(set(level)) == per_level for level in sizes) and sizes not in found:
            found.append(sizes)
    return found
