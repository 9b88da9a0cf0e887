"""The ISBI 2012 challenge's scores of a segmentation into neurites: V_rand and V_info after border thinning.

Defined in Arganda-Carreras et al. 2015, "Crowdsourcing the creation of image segmentation algorithms for
connectomics", Frontiers in Neuroanatomy 9:142. They compare partitions, not pixels: a gap of one pixel in a membrane
merges two cells and costs much, a membrane that is a little too thick costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class PartitionScores(NamedTuple):
    """Scores from 0 to 1, all 1 for equal partitions; `f_score` is the harmonic mean of the other two."""

    f_score: float
    split: float  # below 1 if segments of the reference are split
    merge: float  # below 1 if segments of the reference are merged


@dataclass(frozen=True)
class SegmentScores:
    """Scores of a stack; V_rand and V_info each at the threshold where its F-score is best."""

    v_rand: float
    v_rand_split: float
    v_rand_merge: float
    rand_threshold: float
    v_info: float
    v_info_split: float
    v_info_merge: float
    info_threshold: float


def best_segment_scores(
    probabilities: np.ndarray, labels: np.ndarray, thresholds: Sequence[float] = THRESHOLDS
) -> SegmentScores:
    """Score background probabilities of a stack of slices, each slice on its own.

    At every threshold the scores of the slices are averaged; the threshold with the best mean F-score of the stack is
    reported, the first one if several are equally good. Slices whose reference holds no background count nowhere.

    Fiji's evaluation averages V_info over slices like this; for its Rand F-score it has also summed the pairs of all
    slices first, which changes V_rand of slices of one size in the fourth digit. It searches 0, 0.1, ..., 1.

    Args:
        probabilities: `[N, H, W]` floating point, probability of background (cell interior, class 1).
        labels: `[N, H, W]` integers or bool: 1 = background, 0 = membrane, a negative value = not annotated.
        thresholds: probabilities from which on a pixel is proposed as background, compared in the dtype of
            `probabilities`.

    Raises:
        ValueError: shapes or dtypes do not fit, labels above 1, probabilities outside 0 to 1, no slice, no threshold.
    """
    _check(probabilities, labels, thresholds)
    # [threshold, slice, V_rand or V_info, F-score or split or merge]
    scores = np.ones((len(thresholds), len(labels), 2, 3))
    references = [reference_segments(slice_labels) for slice_labels in labels]
    counted = np.array([bool(reference.any()) for reference in references])
    for i, reference in enumerate(references):
        if counted[i]:
            for k, threshold in enumerate(thresholds):
                counts = _overlaps(proposed_segments(probabilities[i], threshold), reference)
                scores[k, i] = _rand_scores(counts), _information_scores(counts)
    means = scores[:, counted].mean(axis=1) if counted.any() else scores.mean(axis=1)
    at_rand, at_info = (int(k) for k in means[:, :, 0].argmax(axis=0))
    rand, information = means[at_rand, 0].tolist(), means[at_info, 1].tolist()
    return SegmentScores(
        v_rand=rand[0],
        v_rand_split=rand[1],
        v_rand_merge=rand[2],
        rand_threshold=float(thresholds[at_rand]),
        v_info=information[0],
        v_info_split=information[1],
        v_info_merge=information[2],
        info_threshold=float(thresholds[at_info]),
    )


def reference_segments(labels: np.ndarray) -> np.ndarray:
    """4-connected components of class 1 in labels `[H, W]`, numbered from 1; 0 elsewhere (int32)."""
    from scipy.ndimage import label

    return label(labels == 1)[0]


def proposed_segments(probability: np.ndarray, threshold: float) -> np.ndarray:
    """4-connected components of background probability `[H, W]` from `threshold` on, borders thinned (int32)."""
    return thin_borders(probability >= threshold)


def thin_borders(background: np.ndarray) -> np.ndarray:
    """Grow 4-connected components until membranes are lines; returns int32 labels `[H, W]`, 0 on the lines.

    Every membrane pixel joins the component with the fewest steps to it (4 neighbours a step); where two components
    meet, the pixel with more steps stays membrane. Components are neither joined nor split, and no pixel of them is
    lost. This is what the challenge's watershed of the two-valued image does up to ties between equally near
    components, membrane that separates nothing included: it vanishes. An image of membrane only is one segment, the
    one basin of a flat image.

    Why this way: a skeleton (thinning in the stricter sense) keeps loose ends, which would cut pixels out of segments.
    ITK's watershed with marked lines gives the same components and nearly the same pixels at twice the time (13
    instead of 7 ms for 512 x 512), yet its filter takes seconds to load and holds no more than 65535 components.

    Args:
        background: `[H, W]` bool; false is membrane.
    """
    from scipy.ndimage import distance_transform_cdt, label

    components, count = label(background)
    if count == 0:
        return np.ones_like(components)
    steps, nearest = distance_transform_cdt(~background, metric="taxicab", return_indices=True)
    segments = components[nearest[0], nearest[1]]
    grown = segments.copy()
    for axis in (0, 1):
        here = (slice(None),) * axis + (slice(None, -1),)
        there = (slice(None),) * axis + (slice(1, None),)
        # a pair that an earlier line already separates needs no second pixel
        meet = (grown[here] != grown[there]) & (segments[here] > 0) & (segments[there] > 0)
        farther_there = steps[there] >= steps[here]
        segments[there][meet & farther_there] = 0
        segments[here][meet & ~farther_there] = 0
    return segments


def rand_scores(proposed: np.ndarray, reference: np.ndarray) -> PartitionScores:
    """V_rand of two label maps: agreement on which pairs of pixels lie in one segment.

    Over the pixels with `reference` > 0, with p_ij the share of pixels in segment i of the proposal and j of the
    reference, s_i = sum_j p_ij and t_j = sum_i p_ij::

        V(alpha) = sum_ij p_ij^2 / (alpha sum_i s_i^2 + (1 - alpha) sum_j t_j^2)

    `f_score` = V(1/2), `split` = V(0): the share of pairs together in the reference that the proposal keeps together,
    `merge` = V(1): the share of pairs together in the proposal that belong together. A border pixel of the proposal
    (0) counts as a segment of its own, as in the challenge's published evaluation (Fiji's Trainable Segmentation) and
    in SNEMI3D's. Membrane pixels of the reference do not count. Nothing to count: 1.

    Args:
        proposed: integers, 0 = border; the numbers of segments are arbitrary.
        reference: same shape, integers, 0 = membrane.

    Raises:
        ValueError: shapes differ, labels are no integers or negative.
    """
    _check_segments(proposed, reference)
    return _rand_scores(_overlaps(proposed, reference))


def information_scores(proposed: np.ndarray, reference: np.ndarray) -> PartitionScores:
    """V_info of two label maps: mutual information I of proposal S and reference T over their entropies H.

    `V(alpha) = I(S; T) / ((1 - alpha) H(S) + alpha H(T))` over the same pixels as `rand_scores`; `f_score` = V(1/2),
    `split` = V(0): splits raise H(S) and leave I, `merge` = V(1): merges lower I below H(T). Where numerator and
    denominator are both 0 the score is 1: a proposal of one segment splits nothing, in a reference of one segment
    nothing is merged. (Fiji's evaluation gives 0 to one segment against one segment.)

    Args and errors: as `rand_scores`.
    """
    _check_segments(proposed, reference)
    return _information_scores(_overlaps(proposed, reference))


class _Overlaps(NamedTuple):
    """Numbers of pixels (int64) over the foreground of the reference."""

    shared: np.ndarray  # per pair of segments that overlap, borders of the proposal left out
    proposed: np.ndarray  # per segment of the proposal
    reference: np.ndarray  # per segment of the reference, borders of the proposal included
    single: int  # border pixels of the proposal, each of them a segment


def _overlaps(proposed: np.ndarray, reference: np.ndarray) -> _Overlaps:
    foreground = reference != 0
    of_proposed, of_reference = proposed[foreground].astype(np.int64), reference[foreground].astype(np.int64)
    width = int(of_proposed.max(initial=0)) + 1
    pairs, counts = np.unique(of_reference * width + of_proposed, return_counts=True)
    pair_reference, pair_proposed = np.divmod(pairs, width)
    inside = pair_proposed != 0
    return _Overlaps(
        shared=counts[inside],
        proposed=_totals(pair_proposed[inside], counts[inside]),
        reference=_totals(pair_reference, counts),
        single=int(counts[~inside].sum()),
    )


def _totals(segments: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sum of `counts` per different value of `segments`; both of them one entry per pair."""
    _, position = np.unique(segments, return_inverse=True)
    return np.bincount(position, weights=counts).astype(np.int64)


def _rand_scores(overlaps: _Overlaps) -> PartitionScores:
    shared, proposed, reference = (int(np.square(counts).sum()) for counts in overlaps[:3])
    if not reference:
        return PartitionScores(1.0, 1.0, 1.0)
    shared, proposed = shared + overlaps.single, proposed + overlaps.single  # 1^2 per border pixel
    return PartitionScores(2 * shared / (proposed + reference), shared / reference, shared / proposed)


def _information_scores(overlaps: _Overlaps) -> PartitionScores:
    total = int(overlaps.reference.sum())
    if not total:
        return PartitionScores(1.0, 1.0, 1.0)
    of_single = overlaps.single / total * np.log(total)
    joint = _entropy(overlaps.shared, total) + of_single
    of_proposed = _entropy(overlaps.proposed, total) + of_single
    of_reference = _entropy(overlaps.reference, total)
    mutual = of_proposed + of_reference - joint
    return PartitionScores(
        _share(mutual, (of_proposed + of_reference) / 2), _share(mutual, of_proposed), _share(mutual, of_reference)
    )


def _entropy(counts: np.ndarray, total: int) -> float:
    shares = counts / total
    return float(-(shares * np.log(shares)).sum())


def _share(mutual: float, entropy: float) -> float:
    """`mutual / entropy` with rounding errors kept out of the range of scores."""
    return min(max(mutual / entropy, 0.0), 1.0) if entropy > 0 else 1.0


def _check(probabilities: np.ndarray, labels: np.ndarray, thresholds: Sequence[float]) -> None:
    if probabilities.ndim != 3 or probabilities.shape != labels.shape or not probabilities.size:
        raise ValueError(
            f"probabilities and labels must be stacks of one shape [N, H, W], got {probabilities.shape} and "
            f"{labels.shape}"
        )
    if labels.dtype.kind not in "iub" or labels.max() > 1:
        raise ValueError(f"labels must be integers 1 (background) and 0 (membrane), got {labels.dtype} {labels.max()}")
    low, high = probabilities.min(), probabilities.max()
    if probabilities.dtype.kind != "f" or not (low >= 0 and high <= 1):  # also catches NaN
        raise ValueError(f"probabilities must be floats from 0 to 1, got {probabilities.dtype} from {low} to {high}")
    if not len(thresholds):
        raise ValueError("thresholds must hold at least one number")


def _check_segments(proposed: np.ndarray, reference: np.ndarray) -> None:
    if proposed.shape != reference.shape:
        raise ValueError(f"proposed and reference differ in shape: {proposed.shape} and {reference.shape}")
    for name, segments in (("proposed", proposed), ("reference", reference)):
        if segments.dtype.kind not in "iub" or segments.min(initial=0) < 0:
            raise ValueError(f"{name} must hold integers from 0 on, got {segments.dtype} {segments.min(initial=0)}")
