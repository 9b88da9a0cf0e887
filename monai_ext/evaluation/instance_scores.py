"""Scores of label maps, in which every pixel belongs to one object at most.

An object is found at threshold t if a predicted object of its class overlaps it with an intersection over union above
t. From t = 0.5 on there can be only one, so that nothing has to be assigned: Kirillov et al. 2019, "Panoptic
segmentation". AP here is TP / (TP + FP + FN), as in the Data Science Bowl 2018 (Caicedo et al. 2019, "Nucleus
segmentation across imaging experiments") and in StarDist (Schmidt et al. 2018), not COCO's area under a curve.
AJI: Kumar et al. 2017, "A dataset and a technique for generalized nuclear segmentation".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
DENSE_TABLE = 2**22  # cells of an overlap table that are counted faster than pixels are sorted
CROWD_SHARE = 0.5
DEFINITIONS = {
    "nuclei_ap50": "TP / (TP + FP + FN) at intersection over union above 0.50, pooled: objects of all images counted "
    "together; likewise nuclei_ap55 to nuclei_ap95",
    "nuclei_ap": "mean of nuclei_ap50 to nuclei_ap95, pooled",
    "nuclei_ap50_per_image": "as nuclei_ap50 for each image, then averaged over images",
    "nuclei_ap_per_image": "mean over thresholds 0.50 to 0.95 for each image, then averaged over images: the score of "
    "the Data Science Bowl 2018",
    "nuclei_f1_50": "2 TP / (2 TP + FP + FN), pooled; likewise other thresholds",
    "nuclei_pq": "panoptic quality at 0.5, pooled: nuclei_sq (mean overlap of what matches) times nuclei_rq (F1)",
    "nuclei_aji": "aggregated Jaccard index, intersections and unions of all images summed",
    "nuclei_dice": "Dice of foreground pixels, pooled",
    "nuclei_count_error": "mean over images of |predicted - annotated| objects",
    "nuclei_count_bias": "mean over images of predicted - annotated objects",
    "per_image": "images without annotated and predicted objects count in no mean but those of the count",
}


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Which objects of two label maps share how many pixels.

    Attributes:
        reference_areas: `[G]` int64.
        found_areas: `[P]` int64, without pixels of crowd regions.
        reference, found: `[N]` int64, places (from 0) of objects that share pixels.
        counts: `[N]` int64, pixels they share.
        reference_labels: `[G]` int64, classes.
        found_labels: `[P]` int64.
        found_scores: `[P]` float64.
    """

    reference_areas: np.ndarray
    found_areas: np.ndarray
    reference: np.ndarray
    found: np.ndarray
    counts: np.ndarray
    reference_labels: np.ndarray
    found_labels: np.ndarray
    found_scores: np.ndarray

    def above(self, score: float) -> Overlaps:
        """Only predicted objects of at least this score.

        Of maps painted by descending score, exactly what painting with this threshold would have given.
        """
        # in the networks' precision, as painting compares: 0.9 there is a little less than 0.9
        kept = self.found_scores.astype(np.float32) >= np.float32(score)
        return self._chosen(np.ones(len(self.reference_areas), dtype=bool), kept)

    def of_class(self, label: int) -> Overlaps:
        """Only objects of one class."""
        return self._chosen(self.reference_labels == label, self.found_labels == label)

    def _chosen(self, wanted: np.ndarray, kept: np.ndarray) -> Overlaps:
        if wanted.all() and kept.all():
            return self
        pairs = wanted[self.reference] & kept[self.found]
        return Overlaps(
            self.reference_areas[wanted],
            self.found_areas[kept],
            (np.cumsum(wanted) - 1)[self.reference[pairs]],
            (np.cumsum(kept) - 1)[self.found[pairs]],
            self.counts[pairs],
            self.reference_labels[wanted],
            self.found_labels[kept],
            self.found_scores[kept],
        )


def overlap_table(
    reference: np.ndarray,
    prediction: np.ndarray,
    reference_labels: np.ndarray | None = None,
    found_labels: np.ndarray | None = None,
    found_scores: np.ndarray | None = None,
    crowd: np.ndarray | None = None,
) -> Overlaps:
    """Count the pixels that objects of two label maps share, in one pass.

    Args:
        reference: `[H, W]` integer, 1 to G without gaps, 0 for none.
        prediction: `[H, W]` integer, 1 to P.
        reference_labels: `[G]` classes; None: all 1.
        found_labels: `[P]`; None: all 1.
        found_scores: `[P]`; None: all 1.
        crowd: `[H, W]` bool: its pixels do not count, and predicted objects of which a half or more lies in it are
            left out; None: nowhere.

    Raises:
        ValueError: the maps differ in shape.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"label maps must be of one shape, got {reference.shape} and {prediction.shape}")
    wanted = int(reference.max(initial=0)) if reference_labels is None else len(reference_labels)
    given = found_labels if found_labels is not None else found_scores
    present = int(prediction.max(initial=0)) if given is None else len(given)
    columns = present + 1
    codes = reference.ravel().astype(np.int64) * columns + prediction.ravel()
    ignored = np.zeros(columns, dtype=np.int64)
    if crowd is not None and crowd.any():
        ignored = np.bincount(prediction[crowd], minlength=columns)
        codes = codes[~crowd.ravel()]
    if (wanted + 1) * columns <= DENSE_TABLE:
        table = np.bincount(codes, minlength=(wanted + 1) * columns)
        cells = np.flatnonzero(table)
        counts = table[cells]
    else:
        cells, counts = np.unique(codes, return_counts=True)
    rows, places = np.divmod(cells, columns)
    reference_areas = np.bincount(rows, counts, wanted + 1)[1:].astype(np.int64)
    found_areas = np.bincount(places, counts, columns)[1:].astype(np.int64)
    both = (rows > 0) & (places > 0)
    overlaps = Overlaps(
        reference_areas,
        found_areas,
        rows[both] - 1,
        places[both] - 1,
        counts[both],
        np.ones(wanted, dtype=np.int64) if reference_labels is None else np.asarray(reference_labels),
        np.ones(present, dtype=np.int64) if found_labels is None else np.asarray(found_labels),
        np.ones(present) if found_scores is None else np.asarray(found_scores, dtype=np.float64),
    )
    hidden = ignored[1:] >= CROWD_SHARE * (found_areas + ignored[1:])
    everything = np.ones(wanted, dtype=bool)
    return overlaps._chosen(everything, ~hidden | (ignored[1:] == 0))


@dataclass(frozen=True)
class Counts:
    """What scores of one image, or of several together, are made of.

    Attributes:
        references, predictions: numbers of objects.
        found: per threshold, annotated objects that are found.
        overlap: sum of the intersections over unions of pairs above 0.5.
        jaccard: intersection and union of AJI.
        pixels: of foreground in both, in the reference, in the prediction.
        thresholds: of intersection over union, at least 0.5.
    """

    references: int
    predictions: int
    found: tuple[int, ...]
    overlap: float
    jaccard: tuple[int, int]
    pixels: tuple[int, int, int]
    thresholds: tuple[float, ...] = THRESHOLDS

    def __add__(self, other: Counts) -> Counts:
        return replace(
            self,
            references=self.references + other.references,
            predictions=self.predictions + other.predictions,
            found=tuple(a + b for a, b in zip(self.found, other.found, strict=True)),
            overlap=self.overlap + other.overlap,
            jaccard=(self.jaccard[0] + other.jaccard[0], self.jaccard[1] + other.jaccard[1]),
            pixels=tuple(a + b for a, b in zip(self.pixels, other.pixels, strict=True)),  # type: ignore[arg-type]
        )

    def scores(self) -> dict[str, float]:
        """`ap`, `ap50` to `ap95`, `f1_50` to `f1_95`, `pq`, `sq`, `rq`, `aji`, `dice`; NaN where there is nothing."""
        either = self.references + self.predictions
        scores = {"ap": float("nan")}
        for threshold, found in zip(self.thresholds, self.found, strict=True):
            scores[f"ap{round(100 * threshold)}"] = _ratio(found, either - found)
        scores["ap"] = float(np.mean(list(scores.values())[1:]))
        for threshold, found in zip(self.thresholds, self.found, strict=True):
            scores[f"f1_{round(100 * threshold)}"] = _ratio(2 * found, either)
        scores["pq"] = _ratio(2 * self.overlap, either)
        scores["sq"] = _ratio(self.overlap, self.found[0])
        scores["rq"] = _ratio(2 * self.found[0], either)
        scores["aji"] = _ratio(*self.jaccard)
        scores["dice"] = _ratio(2 * self.pixels[0], self.pixels[1] + self.pixels[2])
        return scores


def count(overlaps: Overlaps, thresholds: Sequence[float] = THRESHOLDS) -> Counts:
    """Counts of one image.

    Args:
        overlaps: of its objects; only pairs of one class are matches.
        thresholds: ascending, the first 0.5.

    Raises:
        ValueError: the first threshold is not 0.5.
    """
    if not thresholds or thresholds[0] != THRESHOLDS[0]:
        raise ValueError(f"thresholds must begin with {THRESHOLDS[0]}, got {list(thresholds)}")
    wanted, areas = overlaps.reference_areas, overlaps.found_areas
    same = overlaps.reference_labels[overlaps.reference] == overlaps.found_labels[overlaps.found]
    reference, found, shared = overlaps.reference[same], overlaps.found[same], overlaps.counts[same]
    unions = wanted[reference] + areas[found] - shared
    ious = shared / unions
    # AJI: every annotated object with the predicted one that it overlaps most; those never chosen add to the union
    order = np.lexsort((-ious, reference))
    best = order[np.flatnonzero(np.diff(reference[order], prepend=-1))]
    intersection = int(shared[best].sum())
    union = int(unions[best].sum() + np.delete(wanted, reference[best]).sum() + np.delete(areas, found[best]).sum())
    return Counts(
        len(wanted),
        len(areas),
        tuple(int((ious > threshold).sum()) for threshold in thresholds),
        float(ious[ious > thresholds[0]].sum()),
        (intersection, union),
        (int(overlaps.counts.sum()), int(wanted.sum()), int(areas.sum())),
        tuple(thresholds),
    )


class LabelMapScores:
    """Collects the overlaps of images; gives their scores together and one by one, at any score threshold."""

    def __init__(self) -> None:
        self.images: dict[str, Overlaps] = {}

    def add(self, name: str, overlaps: Overlaps) -> None:
        """One image; one of the same name takes the place of the one before."""
        self.images[name] = overlaps

    def counts(self, score: float, label: int = 0) -> dict[str, Counts]:
        """Per image, of predicted objects of at least this score; with `label` of that class, where it occurs."""
        chosen = {name: overlaps.above(score) for name, overlaps in self.images.items()}
        if label:
            of_class = {name: overlaps.of_class(label) for name, overlaps in chosen.items()}
            chosen = {name: o for name, o in of_class.items() if len(o.reference_areas) or len(o.found_areas)}
        return {name: count(overlaps) for name, overlaps in chosen.items()}

    def overall(self, score: float, label: int = 0) -> dict[str, float]:
        """Scores named `nuclei_...`, see `DEFINITIONS`; undefined ones are NaN."""
        return overall_scores(self.counts(score, label))

    def by_threshold(self, thresholds: Sequence[float], label: int = 0) -> list[dict[str, float]]:
        """A row of pooled and per-image scores for every score threshold."""
        return [{"score_threshold": threshold, **self.overall(threshold, label)} for threshold in thresholds]


def overall_scores(counts: Mapping[str, Counts]) -> dict[str, float]:
    """Scores of several images, pooled and averaged over images."""
    if not counts:
        return {}
    images = list(counts.values())
    total = images[0]
    for image in images[1:]:
        total = total + image
    singles = [image.scores() for image in images]
    scores = {f"nuclei_{name}": value for name, value in total.scores().items()}
    for name in singles[0]:
        scores[f"nuclei_{name}_per_image"] = _mean([single[name] for single in singles])
    errors = np.array([image.predictions - image.references for image in images])
    scores["nuclei_count_error"] = float(np.abs(errors).mean())
    scores["nuclei_count_bias"] = float(errors.mean())
    return scores


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
