"""COCO's assignment of found objects to annotated ones, in one image and of one class.

Lin et al. 2014, "Microsoft COCO: Common objects in context", with the rules of its evaluation tools: by descending
score each found object takes the annotated one it overlaps most that is still free. Crowd regions, and objects whose
size is outside a range, are ignored: what matches them, or is itself outside the range without a match, counts neither
as right nor as wrong. Crowd regions match any number of objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]
LARGEST_THRESHOLD = 1 - 1e-10  # an overlap of 1 must count as such after rounding


@dataclass(frozen=True, eq=False)
class Matches:
    """Of one image and class, for R ranges of size and T thresholds.

    Attributes:
        scores: `[D]` float64, descending.
        matched: `[R, T, D]` bool, found objects that took an annotated one.
        ignored: `[R, T, D]` bool, found objects that count neither way.
        positives: `[R]` int64, annotated objects that count.
    """

    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    positives: np.ndarray


def match(
    scores: np.ndarray,
    found_areas: np.ndarray,
    reference_areas: np.ndarray,
    crowd: np.ndarray,
    pairs: Pairs,
    thresholds: np.ndarray,
    ranges: np.ndarray,
) -> Matches:
    """Assign found objects to annotated ones.

    Args:
        scores: `[D]` descending.
        found_areas: `[D]`.
        reference_areas: `[G]`.
        crowd: `[G]` bool.
        pairs: index of found object, of annotated object, overlap; all pairs of at least the lowest threshold.
        thresholds: `[T]` of overlap; one is reached by an overlap equal to it.
        ranges: `[R, 2]` areas that count, ends included.
    """
    found, reference, overlaps = pairs
    limits = np.minimum(thresholds, LARGEST_THRESHOLD)
    left_out = crowd | _outside(reference_areas, ranges)
    matched = np.zeros((len(ranges), len(limits), len(scores)), dtype=bool)
    ignored = np.zeros_like(matched)
    # most objects have one partner and are its only one: nothing to decide
    alone = (np.bincount(found, minlength=len(scores))[found] == 1) & (
        np.bincount(reference, minlength=len(crowd))[reference] == 1
    )
    reached = overlaps[alone] >= limits[:, None]
    matched[:, :, found[alone]] = reached
    ignored[:, :, found[alone]] = reached & left_out[:, None, reference[alone]]
    if not alone.all():
        contested = (found[~alone], reference[~alone], overlaps[~alone])
        for r in range(len(ranges)):
            candidates = _candidates(contested, left_out[r])
            for t, limit in enumerate(limits.tolist()):
                for place, partner in _greedy(candidates, crowd, left_out[r], limit):
                    matched[r, t, place] = True
                    ignored[r, t, place] = left_out[r, partner]
    ignored |= ~matched & _outside(found_areas, ranges)[:, None]
    return Matches(scores, matched, ignored, (~left_out).sum(1))


def _outside(areas: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """`[R, N]` bool."""
    return (areas < ranges[:, :1]) | (areas > ranges[:, 1:])


Candidates = list[tuple[int, list[tuple[int, float]]]]


def _candidates(pairs: Pairs, left_out: np.ndarray) -> Candidates:
    """Of every found object by descending score its partners: first those that count, each in the order given."""
    found, reference, overlaps = pairs
    order = np.lexsort((reference, left_out[reference], found))
    grouped: dict[int, list[tuple[int, float]]] = {}
    for i, k, value in zip(*(values[order].tolist() for values in (found, reference, overlaps)), strict=True):
        grouped.setdefault(i, []).append((k, value))
    return list(grouped.items())


def _greedy(candidates: Candidates, crowd: np.ndarray, left_out: np.ndarray, limit: float) -> Sequence[tuple[int, int]]:
    """Pairs (found, annotated) at one threshold."""
    taken: set[int] = set()
    pairs = []
    for place, partners in candidates:
        best, least = -1, limit
        for partner, value in partners:
            if best >= 0 and left_out[partner] and not left_out[best]:
                break  # an object that counts goes before all that do not
            if value >= least and not (partner in taken and not crowd[partner]):
                best, least = partner, value
        if best >= 0:
            taken.add(best)
            pairs.append((place, best))
    return pairs
