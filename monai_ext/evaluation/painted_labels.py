"""Label maps of detected objects: what is left of masks when every pixel belongs to one object at most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import find_objects
from scipy.ndimage import label as connected_parts

from monai_ext.ops.paste_masks import paste_masks

if TYPE_CHECKING:
    from monai_ext.networks.mask_rcnn.structures import Detections

MASK_THRESHOLD = 0.5  # probability from which a pixel belongs to a mask
VISIBLE = 0.5  # share of a mask that surer objects must leave: a second detection of an object would be a sliver
NEIGHBOURS = np.ones((3, 3), dtype=np.int8)  # pixels that touch at a corner belong together


def painted_detections(
    detections: Detections, height: int, width: int, threshold: float = 0.5, min_area: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Paint detections of at least `threshold`, the surest first; a pixel that is taken stays taken.

    A detection of which surer ones leave less than half is another view of what is there already, and is dropped.

    Args:
        detections: of one image, boxes in its pixels, by descending score.
        height, width: of the image.
        threshold: score from which a detection is painted.
        min_area: parts of an object (connected at sides or corners) of fewer pixels are dropped.

    Returns:
        `[height, width]` int32 on the processor: 0 for none, then 1 to N without gaps by descending score; and which
        detection each value is: `[N]` int64, the place in `detections` of value i + 1.
    """
    chosen = (detections.scores >= threshold).nonzero()[:, 0]
    masks = detections.masks.index_select(0, chosen)
    boxes = detections.boxes.index_select(0, chosen)
    painted = paste_masks(masks, boxes, height, width, MASK_THRESHOLD).cpu().numpy()
    if min_area > 1:
        painted = without_small_parts(painted, min_area)
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = (masks >= MASK_THRESHOLD).float().mean((1, 2)) * sides.prod(1)
    least = np.concatenate([[1.0], np.maximum(1.0, VISIBLE * areas.cpu().numpy())])
    present = np.bincount(painted.ravel(), minlength=len(chosen) + 1) >= least
    present[0] = False
    values = np.where(present, np.cumsum(present), 0).astype(np.int32)
    places: np.ndarray = chosen.cpu().numpy()
    return values[painted], places[present[1:]]


def without_small_parts(label_map: np.ndarray, min_area: int) -> np.ndarray:
    """A copy in which the parts of objects with fewer than `min_area` pixels are 0.

    Args:
        label_map: `[H, W]` integer, 0 for none.
    """
    kept = label_map.copy()
    for value, window in enumerate(find_objects(label_map), 1):
        if window is None:
            continue
        inside = label_map[window] == value
        parts, count = connected_parts(inside, NEIGHBOURS)
        small = np.bincount(parts.ravel(), minlength=count + 1) < min_area
        small[0] = False
        if small.any():
            kept[window][small[parts]] = 0
    return kept
