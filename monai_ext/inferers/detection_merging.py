"""Detections of overlapping tiles as those of one image.

Three things happen at a seam. A tile cuts an object: the piece is dropped if another tile sees all of it. Two tiles see
the same object: the one with the higher score stays, by overlap of the masks (non-maximum suppression). An object is so
large that no tile sees it whole: its pieces are joined where they agree on the pixels that both tiles see.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from monai_ext.inferers.detection_tiles import Tile, inner_borders, inside, neighbours
from monai_ext.networks.mask_rcnn.structures import Detections
from monai_ext.ops.paste_masks import paste_mask

CUT_MARGIN = 4.0  # pixels; boxes are predicted, so that of a cut object need not end exactly at the border
NEAR = 0.25  # of the overlap: so near to a border, a detection that lies in another tile's one is a piece of it
LEAST_BOX_OVERLAP = 0.05  # of the smaller box; below, masks are not compared
MASK_THRESHOLD = 0.5
Window = tuple[np.ndarray, int, int]


def merge_tiles(
    found: Sequence[Detections], tiles: Sequence[Tile], height: int, width: int, overlap: int, threshold: float = 0.5
) -> Detections:
    """All objects of an image, each once.

    Objects smaller than the overlap less 8 pixels are whole in some tile. Larger ones are joined from their pieces,
    with the resolution of one mask for all of them. Only detections of different tiles and of the same class are
    compared. Memory: one window of pixels for each detection that overlaps one of another tile, never a whole image.

    Args:
        found: of each tile, on the processor, in pixels of the tile.
        tiles: where they lie.
        height, width: of the image.
        overlap: least overlap of tiles, pixels.
        threshold: masks of the same class with a larger intersection over union are one object.

    Returns:
        In pixels of the image, by descending score.
    """
    shifts = [torch.tensor([t.left, t.top, t.left, t.top], dtype=torch.float32) for t in tiles]
    everything = concatenated([f._replace(boxes=f.boxes + shift) for f, shift in zip(found, shifts, strict=True)])
    source = np.repeat(np.arange(len(tiles)), [len(f.scores) for f in found])
    borders, near_tiles = inner_borders(tiles, height, width), neighbours(tiles)
    boxes = everything.boxes.numpy()
    is_cut = ~inside(boxes, borders[source], CUT_MARGIN)
    is_near = ~inside(boxes, borders[source], max(CUT_MARGIN, NEAR * overlap))
    is_seen = _seen_by_others(boxes, source, np.flatnonzero(is_near), borders, near_tiles)
    kept = np.flatnonzero(~(is_cut & is_seen))
    everything = select(everything, torch.from_numpy(kept))
    seams = _Seams(everything, source[kept], is_near[kept], (is_near & ~is_seen)[kept], tiles, height, width)
    chosen, groups = seams.resolve(near_tiles, threshold)
    parts = [select(everything, torch.from_numpy(chosen)), *(joined(select(everything, group)) for group in groups)]
    return by_score(concatenated(parts))


def concatenated(parts: Sequence[Detections]) -> Detections:
    """Detections one after the other; at least one part."""
    return Detections(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def select(detections: Detections, index: torch.Tensor) -> Detections:
    """Some of the detections, by position `[K]` int64."""
    return Detections(*(tensor[index] for tensor in detections))


def by_score(detections: Detections) -> Detections:
    """By descending score; equal ones keep their order."""
    return select(detections, torch.argsort(detections.scores, descending=True, stable=True))


def joined(pieces: Detections) -> Detections:
    """One detection of the pieces of an object: their union, and the best of their scores and its class."""
    boxes = pieces.boxes
    box = torch.cat([boxes[:, :2].amin(0), boxes[:, 2:].amax(0)])[None]
    mask = resampled(pieces.masks, boxes, box.expand_as(boxes)).amax(0, keepdim=True)
    best = pieces.scores.argmax()
    return Detections(box, pieces.scores[best][None], pieces.labels[best][None], mask)


def resampled(masks: torch.Tensor, boxes: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
    """Masks as grids over other boxes; zero outside of their own.

    Args:
        masks: `[N, M, M]` probabilities over the boxes.
        boxes: `[N, 4]`.
        onto: `[N, 4]`.

    Returns:
        `[N, M, M]`.
    """
    size = masks.shape[-1]
    centres = (torch.arange(size, dtype=torch.float32, device=masks.device) + 0.5) / size
    places = []
    for low, high in ((0, 2), (1, 3)):
        position = onto[:, low, None] + centres * (onto[:, high] - onto[:, low])[:, None]
        length = (boxes[:, high] - boxes[:, low]).clamp_min(1e-6)
        places.append((position - boxes[:, low, None]) / length[:, None] * 2 - 1)
    x, y = places
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)
    return torch.nn.functional.grid_sample(masks[:, None], grid, mode="bilinear", align_corners=False)[:, 0]


def _seen_by_others(
    boxes: np.ndarray, source: np.ndarray, asked: np.ndarray, borders: np.ndarray, near_tiles: Sequence[np.ndarray]
) -> np.ndarray:
    """Whether another tile holds all of a box, `[N]` bool; false where it was not asked."""
    is_seen = np.zeros(len(boxes), dtype=bool)
    for index in asked.tolist():
        others = borders[near_tiles[source[index]]]
        is_seen[index] = inside(np.broadcast_to(boxes[index], others.shape), others, CUT_MARGIN).any()
    return is_seen


class _Seams:
    """Compares detections of tiles that overlap.

    Args:
        detections: of all tiles, in order of the tiles.
        source: tile of each.
        is_near: whether an inner border of the tile is so near that it may have cut the object.
        is_piece: whether, besides, no tile sees all of it.
        tiles: where they lie.
        height, width: of the image.
    """

    def __init__(
        self,
        detections: Detections,
        source: np.ndarray,
        is_near: np.ndarray,
        is_piece: np.ndarray,
        tiles: Sequence[Tile],
        height: int,
        width: int,
    ) -> None:
        self.detections = detections
        self.boxes, self.labels = detections.boxes.numpy(), detections.labels.numpy()
        self.source, self.is_near, self.is_piece, self.tiles = source, is_near, is_piece, tiles
        self.height, self.width = height, width
        self._windows: dict[int, Window] = {}

    def resolve(self, near_tiles: Sequence[np.ndarray], threshold: float) -> tuple[np.ndarray, list[torch.Tensor]]:
        """Positions of detections that stay as they are, and of those that are joined into one."""
        same: dict[int, list[int]] = {}
        group = list(range(len(self.source)))
        for i, j in self._pairs(near_tiles):
            if self.is_piece[i] and self.is_piece[j] and self._agree(i, j) > threshold:
                group[_root(group, i)] = _root(group, j)
            elif self._overlap(i, j, bool(self.is_near[i] or self.is_near[j])) > threshold:
                same.setdefault(i, []).append(j)
                same.setdefault(j, []).append(i)
        alive = np.ones(len(group), dtype=bool)
        # what a border may have cut comes last, then the score decides
        for i in np.lexsort((-self.detections.scores.numpy(), self.is_near)).tolist():
            if alive[i]:
                alive[same.get(i, [])] = False
        roots = np.array([_root(group, i) for i in range(len(group))], dtype=np.int64)
        members: dict[int, list[int]] = {}
        for i in np.flatnonzero(alive & (np.bincount(roots, minlength=len(group))[roots] > 1)).tolist():
            members.setdefault(int(roots[i]), []).append(i)
        for pieces in members.values():
            alive[pieces] = False
        return np.flatnonzero(alive), [torch.tensor(pieces) for pieces in members.values()]

    def _pairs(self, near_tiles: Sequence[np.ndarray]) -> list[tuple[int, int]]:
        """Detections of one class and different tiles whose boxes overlap."""
        starts = np.searchsorted(self.source, np.arange(len(self.tiles) + 1))
        found: list[tuple[int, int]] = []
        for t, others in enumerate(near_tiles):
            for u in others[others > t]:
                first = np.arange(starts[t], starts[t + 1])
                second = np.arange(starts[u], starts[u + 1])
                rows, columns = self.boxes[first][:, None], self.boxes[second][None]
                shared = _area(np.maximum(rows[..., :2], columns[..., :2]), np.minimum(rows[..., 2:], columns[..., 2:]))
                smaller = np.minimum(_area(rows[..., :2], rows[..., 2:]), _area(columns[..., :2], columns[..., 2:]))
                close = shared > LEAST_BOX_OVERLAP * smaller
                close &= self.labels[first][:, None] == self.labels[second][None]
                found += [(int(first[i]), int(second[j])) for i, j in np.argwhere(close)]
        return found

    def _overlap(self, i: int, j: int, is_piece: bool) -> float:
        """Intersection of two masks over their union; of a piece, over the smaller of them."""
        (a, top_a, left_a), (b, top_b, left_b) = self._window(i), self._window(j)
        top, left = max(top_a, top_b), max(left_a, left_b)
        bottom, right = min(top_a + a.shape[0], top_b + b.shape[0]), min(left_a + a.shape[1], left_b + b.shape[1])
        if bottom <= top or right <= left:
            return 0.0
        part_a = a[top - top_a : bottom - top_a, left - left_a : right - left_a]
        part_b = b[top - top_b : bottom - top_b, left - left_b : right - left_b]
        shared = int(np.count_nonzero(part_a & part_b))
        areas = int(np.count_nonzero(a)), int(np.count_nonzero(b))
        return shared / max(1, min(areas) if is_piece else sum(areas) - shared)

    def _agree(self, i: int, j: int) -> float:
        """Intersection over union of two masks on the pixels that both of their tiles see."""
        t, u = self.tiles[self.source[i]], self.tiles[self.source[j]]
        top, left = max(t.top, u.top), max(t.left, u.left)
        bottom = min(t.top + t.height, u.top + u.height)
        right = min(t.left + t.width, u.left + u.width)
        a, b = (self._within(k, top, left, bottom, right) for k in (i, j))
        return int(np.count_nonzero(a & b)) / max(1, int(np.count_nonzero(a | b)))

    def _within(self, index: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        """A mask on a rectangle."""
        window, row, column = self._window(index)
        shown = np.zeros((bottom - top, right - left), dtype=bool)
        y0, x0 = max(top, row), max(left, column)
        y1, x1 = min(bottom, row + window.shape[0]), min(right, column + window.shape[1])
        if y1 > y0 and x1 > x0:
            shown[y0 - top : y1 - top, x0 - left : x1 - left] = window[y0 - row : y1 - row, x0 - column : x1 - column]
        return shown

    def _window(self, index: int) -> Window:
        if index not in self._windows:
            mask, box = self.detections.masks[index], self.detections.boxes[index]
            window, corner = paste_mask(mask, box, self.height, self.width, MASK_THRESHOLD)
            self._windows[index] = window.numpy(), int(corner[0]), int(corner[1])
        return self._windows[index]


def _area(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.clip(high - low, 0, None).prod(-1)


def _root(group: list[int], index: int) -> int:
    while group[index] != index:
        group[index] = group[group[index]]
        index = group[index]
    return index
