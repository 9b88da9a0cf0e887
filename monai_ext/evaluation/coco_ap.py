"""COCO's average precision and recall of boxes and masks, right whatever the number of objects in an image.

Lin et al. 2014, "Microsoft COCO: Common objects in context". Same numbers as its evaluation tools, except that AP is
that of the largest number of detections asked for (theirs is fixed to 100), that an annotation may have the id 0, and
that the size of an annotated object is its number of pixels rather than what the file states as `area`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from monai_ext.evaluation.coco_matching import Matches, Pairs, match
from monai_ext.evaluation.instance_objects import ImageObjects, box_areas, box_overlaps, mask_overlaps, only

KINDS = ("box", "mask")
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
LARGEST_AREA = 1e10
ALL = "all"
COCO_SIZES: dict[str, tuple[float, float]] = {
    ALL: (0, LARGEST_AREA),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, LARGEST_AREA),
}
BELOW = 1e-6  # ends are included, and an area must be of one band only
# nine of ten nuclei are "small" to COCO; these are the sides of squares of the same area
NUCLEI_SIZES: dict[str, tuple[float, float]] = {
    "below_8px": (0, 8**2 - BELOW),
    "8_to_16px": (8**2, 16**2 - BELOW),
    "16_to_24px": (16**2, 24**2 - BELOW),
    "24_to_32px": (24**2, 32**2 - BELOW),
    "from_32px": (32**2, LARGEST_AREA),
}


@dataclass(frozen=True)
class ImageMatches:
    """What one image adds to `CocoScores`.

    Attributes:
        matches: kind, label and matches, of all kinds and of the labels in the image.
        cut: detections beyond the largest number asked for.
    """

    matches: tuple[tuple[str, int, Matches], ...]
    cut: int


class CocoScores:
    """Collects images; gives AP and AR of all of them.

    Args:
        num_classes: labels are 1 to this.
        max_detections: per image and class, the surest ones; AP and AR by size are of the last, AR of each.
        sizes: name to smallest and largest area in pixels, ends included; `all` is added.
        kinds: `box`, `mask` or both.
    """

    def __init__(
        self,
        num_classes: int,
        max_detections: Sequence[int] = (1, 10, 500),
        sizes: Mapping[str, tuple[float, float]] | None = None,
        kinds: Sequence[str] = KINDS,
    ) -> None:
        self.num_classes = num_classes
        self.max_detections = tuple(sorted(set(max_detections)))
        self.sizes = {ALL: COCO_SIZES[ALL], **(COCO_SIZES | NUCLEI_SIZES if sizes is None else sizes)}
        self.kinds = tuple(kinds)
        self.cut = 0
        self._matches: dict[str, list[list[Matches]]] = {kind: [[] for _ in range(num_classes)] for kind in self.kinds}
        self._precision: dict[str, np.ndarray] = {}

    def add(self, reference: ImageObjects, found: ImageObjects) -> ImageMatches:
        """One image; images of equal scores keep the order in which they were added.

        Returns:
            What `put` takes.
        """
        overlaps = {"box": box_overlaps, "mask": mask_overlaps}
        least = float(THRESHOLDS[0])
        ranges = np.array(list(self.sizes.values()), dtype=np.float64)
        reference_areas = reference.areas
        matches, cut = [], 0
        for label in np.union1d(found.labels, reference.labels).tolist():
            places = np.flatnonzero(found.labels == label)
            cut += max(0, len(places) - self.max_detections[-1])
            wanted = np.flatnonzero(reference.labels == label)
            places = places[: self.max_detections[-1]]
            some, annotated = only(found, places), only(reference, wanted)
            for kind in self.kinds:
                pairs: Pairs = overlaps[kind](some, annotated, least)
                areas = box_areas(some.boxes) if kind == "box" else some.areas
                one = match(some.scores, areas, reference_areas[wanted], annotated.crowd, pairs, THRESHOLDS, ranges)
                matches.append((kind, label, one))
        image = ImageMatches(tuple(matches), cut)
        self.put(image)
        return image

    def put(self, image: ImageMatches) -> None:
        """One image that was matched before, maybe by another process with the same settings."""
        self._precision = {}
        self.cut += image.cut
        for kind, label, one in image.matches:
            self._matches[kind][label - 1].append(one)

    def clear(self) -> None:
        """Forget all images."""
        self.cut, self._precision = 0, {}
        self._matches = {kind: [[] for _ in range(self.num_classes)] for kind in self.kinds}

    def precision(self, kind: str) -> np.ndarray:
        """`[T, 101, K, R]` float64, NaN for classes and sizes without annotated objects."""
        if kind not in self._precision:  # asked for by `overall` and by `per_class`
            result = np.full((len(THRESHOLDS), len(RECALLS), self.num_classes, len(self.sizes)), np.nan)
            for k, images in enumerate(self._matches[kind]):
                result[:, :, k] = _precision(images, len(self.sizes))
            self._precision[kind] = result
        return self._precision[kind]

    def recall(self, kind: str, most: int) -> np.ndarray:
        """`[T, K, R]` float64 with at most so many detections per image, NaN as in `precision`."""
        result = np.full((len(THRESHOLDS), self.num_classes, len(self.sizes)), np.nan)
        for k, images in enumerate(self._matches[kind]):
            positives = _positives(images, len(self.sizes))
            right = sum(
                ((m.matched & ~m.ignored)[:, :, :most].sum(2) for m in images),
                np.zeros((len(self.sizes), len(THRESHOLDS)), dtype=np.int64),
            )
            with np.errstate(invalid="ignore", divide="ignore"):
                result[:, k] = np.where(positives > 0, right.T / positives, np.nan)
        return result

    def overall(self) -> dict[str, float]:
        """`box_ap`, `box_ap50`, `box_ap75`, `box_ap_small`, ..., `box_ar_1`, ..., `box_ar_small`; the same of masks.

        AP is the mean over thresholds 0.50, 0.55, ..., 0.95 and the classes that have annotated objects; NaN where
        there are none.
        """
        scores: dict[str, float] = {}
        for kind in self.kinds:
            precision = self.precision(kind)
            scores |= {f"{kind}_{name}": value for name, value in _averages(precision[..., 0]).items()}
            for r, size in enumerate(self.sizes):
                if size != ALL:
                    scores[f"{kind}_ap_{size}"] = _mean(precision[..., r])
            for most in self.max_detections:
                scores[f"{kind}_ar_{most}"] = _mean(self.recall(kind, most)[..., 0])
            recall = self.recall(kind, self.max_detections[-1])
            for r, size in enumerate(self.sizes):
                if size != ALL:
                    scores[f"{kind}_ar_{size}"] = _mean(recall[..., r])
        return scores

    def per_class(self) -> dict[str, np.ndarray]:
        """`box_ap`, `box_ap50`, `box_ap75`, `box_ar` and the same of masks, each `[K]`, NaN for absent classes."""
        scores: dict[str, np.ndarray] = {}
        for kind in self.kinds:
            precision = self.precision(kind)[..., 0]
            parts = [_averages(precision[:, :, k]) for k in range(self.num_classes)]
            for name in ("ap", "ap50", "ap75"):
                scores[f"{kind}_{name}"] = np.array([part[name] for part in parts])
            scores[f"{kind}_ar"] = self.recall(kind, self.max_detections[-1])[..., 0].mean(0)
        return scores


def _averages(precision: np.ndarray) -> dict[str, float]:
    """AP, AP50 and AP75 of `[T, 101, ...]`."""
    return {"ap": _mean(precision), "ap50": _mean(precision[0]), "ap75": _mean(precision[5])}


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _positives(images: Sequence[Matches], num_ranges: int) -> np.ndarray:
    return sum((m.positives for m in images), np.zeros(num_ranges, dtype=np.int64))


def _precision(images: Sequence[Matches], num_ranges: int) -> np.ndarray:
    """`[T, 101, R]`: the best precision at this recall or beyond; 0 where the recall is never reached."""
    positives = _positives(images, num_ranges)
    result = np.where(positives > 0, 0.0, np.nan) * np.ones((len(THRESHOLDS), len(RECALLS), 1))
    scores = np.concatenate([m.scores for m in images] or [np.zeros(0)])
    if not len(scores):
        return result
    order = np.argsort(-scores, kind="stable")
    matched = np.concatenate([m.matched for m in images], axis=2)[:, :, order]
    counted = ~np.concatenate([m.ignored for m in images], axis=2)[:, :, order]
    for r in np.flatnonzero(positives):
        right = np.cumsum(matched[r] & counted[r], axis=1)
        wrong = np.cumsum(~matched[r] & counted[r], axis=1)
        precision = right / (right + wrong + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = right / positives[r]
        for t in range(len(THRESHOLDS)):
            places = np.searchsorted(recall[t], RECALLS, side="left")
            reached = places < len(scores)
            result[t, reached, r] = precision[t, places[reached]]
    return result
