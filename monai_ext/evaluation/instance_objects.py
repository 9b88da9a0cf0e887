"""Objects of an image as scores compare them: masks that may overlap, each in a window of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.ndimage import find_objects

from monai_ext.datasets.coco_masks import PixelRuns
from monai_ext.datasets.instance_dataset import InstanceCase
from monai_ext.evaluation.painted_labels import MASK_THRESHOLD
from monai_ext.ops import forms
from monai_ext.ops.paste_masks import NAME, window_of

if TYPE_CHECKING:
    from monai_ext.networks.mask_rcnn.structures import Detections

PAIRS_AT_ONCE = 2**22


class MaskWindow(NamedTuple):
    """A mask: pixels `inside` `[h, w]` bool, of which the first is in this row and column of the image."""

    top: int
    left: int
    inside: np.ndarray


@dataclass(frozen=True, eq=False)
class ImageObjects:
    """Objects of one image, as annotated or as found.

    Attributes:
        boxes: `[N, 4]` float64 (x0, y0, x1, y1), pixel edges, half open.
        labels: `[N]` int64, 1 to the number of classes.
        masks: N windows.
        scores: `[N]` float64, descending; of annotated objects zeros.
        crowd: `[N]` bool, regions of several objects; of found objects false.
    """

    boxes: np.ndarray
    labels: np.ndarray
    masks: tuple[MaskWindow, ...]
    scores: np.ndarray
    crowd: np.ndarray

    @cached_property
    def areas(self) -> np.ndarray:
        """`[N]` float64, pixels of the masks."""
        return np.array([np.count_nonzero(mask.inside) for mask in self.masks], dtype=np.float64)

    @cached_property
    def windows(self) -> np.ndarray:
        """`[N, 4]` int64, edges (x0, y0, x1, y1) of the windows."""
        edges = [(m.left, m.top, m.left + m.inside.shape[1], m.top + m.inside.shape[0]) for m in self.masks]
        return np.array(edges, dtype=np.int64).reshape(-1, 4)

    def __len__(self) -> int:
        return len(self.masks)


@dataclass(frozen=True, eq=False)
class Reference:
    """What is annotated in an image.

    Attributes:
        size: (height, width).
        objects: as COCO has them: they may overlap, and some may be crowd regions.
        label_map: `[H, W]` uint16 or int32, objects without overlap, 1 to G; crowd regions are 0.
        labels: `[G]` int64, classes of the objects of the label map.
        crowd: `[H, W]` bool, regions that count neither way; None if there are none.
    """

    size: tuple[int, int]
    objects: ImageObjects
    label_map: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Memory of pixels."""
        windows = sum(mask.inside.nbytes for mask in self.objects.masks)
        return int(self.label_map.nbytes + windows + (0 if self.crowd is None else self.crowd.nbytes))


def reference_of(case: InstanceCase) -> Reference:
    """Read what is annotated in an image.

    Raises:
        InputError: the label map file cannot be used.
    """
    seen = case.instances()
    count = len(seen.labels)
    label_map = seen.label_map.astype(np.uint16) if count < 2**16 else seen.label_map
    if case.label_path is not None:
        objects = objects_of_label_map(seen.label_map, seen.labels)
        return Reference(case.size, objects, label_map, seen.labels, seen.crowd)
    annotations = case.annotations
    objects = ImageObjects(
        boxes=np.array([annotation.box for annotation in annotations], dtype=np.float64).reshape(-1, 4),
        labels=np.array([annotation.label for annotation in annotations], dtype=np.int64),
        masks=tuple(window_of_runs(annotation.runs(*case.size)) for annotation in annotations),
        scores=np.zeros(len(annotations)),
        crowd=np.array([annotation.crowd for annotation in annotations], dtype=bool),
    )
    return Reference(case.size, objects, label_map, seen.labels, seen.crowd)


def objects_of_label_map(label_map: np.ndarray, labels: np.ndarray) -> ImageObjects:
    """Objects of a label map `[H, W]` whose values are 1 to N without gaps, of classes `labels` `[N]`."""
    slices = find_objects(label_map, max_label=len(labels))
    masks = tuple(
        MaskWindow(rows.start, columns.start, label_map[rows, columns] == value)
        for value, (rows, columns) in enumerate(slices, 1)
    )
    edges = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in slices]
    return ImageObjects(
        boxes=np.array(edges, dtype=np.float64).reshape(-1, 4),
        labels=np.asarray(labels, dtype=np.int64),
        masks=masks,
        scores=np.zeros(len(masks)),
        crowd=np.zeros(len(masks), dtype=bool),
    )


def objects_of_detections(detections: Detections, height: int, width: int) -> ImageObjects:
    """Found objects with their masks at the resolution of the image; they may overlap.

    Args:
        detections: of one image, boxes in its pixels; they are sorted by descending score here.
        height, width: of the image.
    """
    boxes, scores, labels, probabilities = (tensor.detach().cpu() for tensor in detections)
    order = np.argsort(-scores.double().numpy(), kind="stable")
    edges, planes = boxes.double().tolist(), probabilities.float().unbind()
    # what `paste_mask` does, without its checks and conversions, which for hundreds of objects cost more than the masks
    form = forms.implementation(NAME, probabilities.device)
    masks = []
    for index in order.tolist():
        window = window_of(edges[index], height, width)
        inside = form.paste_mask(planes[index], edges[index], window, MASK_THRESHOLD)
        masks.append(MaskWindow(window[0], window[2], inside.numpy()))
    return ImageObjects(
        boxes=boxes.double().numpy()[order].reshape(-1, 4),
        labels=labels.numpy()[order].astype(np.int64),
        masks=tuple(masks),
        scores=scores.double().numpy()[order],
        crowd=np.zeros(len(masks), dtype=bool),
    )


def window_of_runs(runs: PixelRuns) -> MaskWindow:
    """The same mask in its window."""
    x0, y0, x1, y1 = runs.box()
    inside = np.zeros((y1 - y0, x1 - x0), dtype=bool)
    columns, rows = np.divmod(runs.positions(), max(runs.height, 1))
    inside[rows - y0, columns - x0] = True
    return MaskWindow(y0, x0, inside)


def mask_overlaps(
    found: ImageObjects, reference: ImageObjects, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overlaps of masks of at least `least`: intersection by union, or of crowd regions by the found mask's area.

    Only pairs whose windows could reach `least` are compared, and only in the rectangle that they share.

    Returns:
        index into `found`, index into `reference` (both `[P]` int64, ascending) and overlap `[P]` float64.
    """
    windows, others = found.windows, reference.windows
    areas, other_areas = found.areas, reference.areas
    candidates = []
    for block in _blocks(len(found), len(reference)):
        some = areas[block, None]
        most = np.minimum(shared_areas(windows[block], others), np.minimum(some, other_areas))
        possible = (most > 0) & (most >= least * _unions(most, some, other_areas, reference.crowd))
        candidates.append(np.argwhere(possible) + np.array([block.start, 0]))
    rows, columns = np.concatenate(candidates).T
    counts = np.zeros(len(rows))
    for place, (i, k) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        first, second = found.masks[i], reference.masks[k]
        top, left = max(first.top, second.top), max(first.left, second.left)
        a = first.inside[top - first.top :, left - first.left :]
        b = second.inside[top - second.top :, left - second.left :]
        height, width = min(a.shape[0], b.shape[0]), min(a.shape[1], b.shape[1])
        counts[place] = np.count_nonzero(a[:height, :width] & b[:height, :width])
    unions = np.where(reference.crowd[columns], areas[rows], areas[rows] + other_areas[columns] - counts)
    overlaps = counts / unions
    reached = overlaps >= least
    return rows[reached], columns[reached], overlaps[reached]


def box_overlaps(
    found: ImageObjects, reference: ImageObjects, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `mask_overlaps`, of the boxes."""
    other_areas = box_areas(reference.boxes)
    parts = []
    for block in _blocks(len(found), len(reference)):
        boxes = found.boxes[block]
        shared = shared_areas(boxes, reference.boxes)
        unions = _unions(shared, box_areas(boxes)[:, None], other_areas, reference.crowd)
        overlaps = np.divide(shared, unions, out=np.zeros_like(shared), where=unions > 0)
        rows, columns = np.nonzero(overlaps >= least)
        parts.append((rows + block.start, columns, overlaps[rows, columns]))
    rows, columns, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return rows, columns, values


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """`[N]` of boxes `[N, 4]`."""
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), dtype=np.float64)


def shared_areas(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """`[N, M]` float64, area of the intersection of boxes `[N, 4]` and `[M, 4]`."""
    width = np.minimum(boxes[:, None, 2], others[:, 2]) - np.maximum(boxes[:, None, 0], others[:, 0])
    height = np.minimum(boxes[:, None, 3], others[:, 3]) - np.maximum(boxes[:, None, 1], others[:, 1])
    return np.asarray(np.maximum(width, 0) * np.maximum(height, 0), dtype=np.float64)


def _unions(shared: np.ndarray, areas: np.ndarray, other_areas: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Of areas `[N, 1]` and `[M]`; of crowd regions the found object's area."""
    return np.where(crowd, areas, areas + other_areas - shared)


def _blocks(rows: int, columns: int) -> list[slice]:
    """Rows of a table that are held in memory at once; at least one slice, which may be empty."""
    size = max(1, PAIRS_AT_ONCE // max(columns, 1))
    return [slice(first, min(first + size, rows)) for first in range(0, max(rows, 1), size)]


def only(objects: ImageObjects, chosen: Sequence[int] | np.ndarray) -> ImageObjects:
    """Some of the objects, in the order given."""
    places = np.asarray(chosen, dtype=np.int64)
    return ImageObjects(
        objects.boxes[places],
        objects.labels[places],
        tuple(objects.masks[place] for place in places.tolist()),
        objects.scores[places],
        objects.crowd[places],
    )
