"""One annotation of a COCO file: its box and mask, if they keep the rules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from monai_ext.datasets.coco_masks import FEWEST_POINTS, PixelRuns, check_counts, crosses_itself, unpack_counts
from monai_ext.datasets.faults import Faults
from monai_ext.datasets.instance_dataset import Annotation

EDGE_TOLERANCE = 1.0  # pixels that a box may reach over the edge of its image: rounding of the tools that wrote it
SMALL_AREA = 16.0  # polygons below may fall between the centres of pixels


def checked_annotation(
    record: Mapping[str, Any], where: str, size: tuple[int, int], label: int, faults: Faults, oddities: Faults
) -> Annotation | None:
    """Look at box and mask of a record.

    Args:
        record: with an id, and the key `segmentation`; a box that lacks is that of the mask.
        where: how it is called in messages.
        size: (height, width) of its image.
        label: class, 1 to K.
        faults: gets the rule that it breaks.
        oddities: gets what is unusual but has a meaning.

    Returns:
        The annotation; None if it breaks a rule.
    """
    height, width = size
    crowd = record.get("iscrowd", 0)
    if crowd not in (0, 1):
        faults.add("have an iscrowd other than 0 and 1", f"{where} ({crowd!r})")
        return None
    segmentation = record["segmentation"]
    polygons: tuple[np.ndarray, ...] = ()
    counts: str | np.ndarray | None = None
    if isinstance(segmentation, dict):
        counts = _checked_counts(segmentation, where, size, faults)
        if counts is None:
            return None
    else:
        polygons = _checked_polygons(segmentation, where, size, faults, oddities)
        if not polygons:
            return None
    box = record.get("bbox")
    if box is None:
        edges = Annotation(record["id"], label, False, (0, 0, 0, 0), polygons, counts).runs(*size).box()
        return Annotation(record["id"], label, bool(crowd), edges, polygons, counts)  # that of the mask
    if not isinstance(box, list) or len(box) != 4 or not _are_numbers(box):
        faults.add("have a bbox that is not [x, y, width, height]", where)
        return None
    x0, y0, x1, y1 = box[0], box[1], box[0] + box[2], box[1] + box[3]
    if box[2] <= 0 or box[3] <= 0:
        faults.add("have a box without area", f"{where} ({box[2]:g} x {box[3]:g})")
        return None
    if min(x0, y0) < -EDGE_TOLERANCE or x1 > width + EDGE_TOLERANCE or y1 > height + EDGE_TOLERANCE:
        shown = f"{where} (x {x0:g} to {x1:g}, y {y0:g} to {y1:g} of {width} x {height})"
        faults.add("have a box outside the image", shown)
        return None
    return Annotation(int(record["id"]), label, bool(crowd), (x0, y0, x1, y1), polygons, counts)


def _checked_counts(
    segmentation: Mapping[str, Any], where: str, size: tuple[int, int], faults: Faults
) -> str | np.ndarray | None:
    counts = segmentation.get("counts")
    if segmentation.get("size") != list(size):
        stated = segmentation.get("size")
        faults.add("have run lengths of another size than the image", f"{where} ({stated}, image {list(size)})")
        return None
    if not isinstance(counts, str) and not (isinstance(counts, list) and all(map(is_whole, counts))):
        faults.add("have run lengths that are neither numbers nor a string", where)
        return None
    try:
        lengths = unpack_counts(counts) if isinstance(counts, str) else np.array(counts, dtype=np.int64)
        check_counts(lengths, *size)
    except (ValueError, OverflowError) as error:
        faults.add("have damaged run lengths", f"{where} ({error})")
        return None
    if not lengths[1::2].any():
        faults.add("have an empty mask", where)
        return None
    return counts if isinstance(counts, str) else lengths


def _checked_polygons(
    segmentation: Any, where: str, size: tuple[int, int], faults: Faults, oddities: Faults
) -> tuple[np.ndarray, ...]:
    """Polygons with area; empty if there are none or the record is broken."""
    if not isinstance(segmentation, list) or not segmentation:
        faults.add("have no mask", where)
        return ()
    if not all(isinstance(polygon, list) and _are_numbers(polygon) for polygon in segmentation):
        faults.add("have a segmentation that is neither polygons [[x, y, ...]] nor run lengths", where)
        return ()
    if any(len(polygon) % 2 or len(polygon) < 2 * FEWEST_POINTS for polygon in segmentation):
        faults.add(f"have a polygon of an odd number of values or fewer than {FEWEST_POINTS} points", where)
        return ()
    polygons = tuple(np.array(polygon, dtype=np.float64) for polygon in segmentation)
    areas = [_area(polygon) for polygon in polygons]
    # sides that cross may enclose as much to the left as to the right, so that no signed area is left
    crossed = [crosses_itself(polygon) for polygon in polygons]
    kept = tuple(p for p, area, cross in zip(polygons, areas, crossed, strict=True) if area > 0 or cross)
    if not kept:
        faults.add("have a polygon without area", where)
        return ()
    if len(kept) < len(polygons):
        oddities.add("have parts without area, which are not used", where)
    # the rasteriser must not walk along lines to where no image is, and pixels tell whether anything is left
    far = any(np.abs(polygon).max() > 100 * max(size) for polygon in kept)
    outside = any(_reaches_out(polygon, size) for polygon in kept)
    small = max(areas) < SMALL_AREA
    if far or ((outside or small) and not PixelRuns.from_polygons(kept, *size).area):
        faults.add("have a polygon that covers no pixel of the image", where)
        return ()
    if outside:
        oddities.add("have polygons that reach out of the image and are cut off", where)
    if any(crossed):
        oddities.add("have polygons that cross themselves (filled by the even-odd rule)", where)
    return kept


def _area(polygon: np.ndarray) -> float:
    """Of the polygon by the shoelace formula, in square pixels."""
    x, y = polygon[0::2] - polygon[0], polygon[1::2] - polygon[1]
    # counted from the first point, the side that closes the polygon adds nothing
    return abs(float(x[:-1] @ y[1:] - y[:-1] @ x[1:])) / 2


def _reaches_out(polygon: np.ndarray, size: tuple[int, int]) -> bool:
    x, y = polygon[0::2], polygon[1::2]
    far = size[1] + EDGE_TOLERANCE, size[0] + EDGE_TOLERANCE
    return bool(polygon.min() < -EDGE_TOLERANCE or x.max() > far[0] or y.max() > far[1])


def is_whole(value: Any) -> bool:
    """Whether a value of a JSON file is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _are_numbers(values: list[Any]) -> bool:
    # a file of COCO's size holds tens of millions: types are compared without a loop in Python
    try:
        return set(map(type, values)) <= {int, float} and all(map(math.isfinite, values))
    except OverflowError:  # a whole number beyond all floating-point ones
        return False
