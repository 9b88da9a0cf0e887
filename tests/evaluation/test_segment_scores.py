"""V_rand and V_info: values by hand, direct definitions, border thinning, the search for thresholds, real labels."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, gaussian_filter, label

from monai_ext.evaluation.segment_scores import (
    best_segment_scores,
    information_scores,
    proposed_segments,
    rand_scores,
    reference_segments,
    thin_borders,
)


def four_quarters() -> np.ndarray:
    """8 x 8 pixels without membrane, segments 1 to 4 of 16 pixels each."""
    return np.kron(np.array([[1, 2], [3, 4]]), np.ones((4, 4), dtype=np.int32)).astype(np.int32)


def cells(gap: int = 0) -> np.ndarray:
    """33 x 33 labels of four cells between membranes one pixel wide, with `gap` pixels of a membrane missing."""
    labels = np.ones((33, 33), dtype=np.uint8)
    labels[16, :] = labels[:, 16] = 0
    labels[3 : 3 + gap, 16] = 1
    return labels


def both(proposed: np.ndarray, reference: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return rand_scores(proposed, reference), information_scores(proposed, reference)


def test_equal_partitions_score_1() -> None:
    rand, information = both(four_quarters(), four_quarters())
    assert rand == (1.0, 1.0, 1.0)
    assert information == pytest.approx((1, 1, 1), abs=1e-12)  # sums of logarithms


def test_every_segment_split_in_halves() -> None:
    """8 segments of 1/8: sum p^2 = sum s^2 = 1/8, sum t^2 = 1/4. H(S) = log 8, H(T) = I = log 4, ratio 2/3."""
    reference = four_quarters()
    proposed = reference * 2 + (np.arange(8) % 4 < 2)
    rand, information = both(proposed, reference)
    assert rand == pytest.approx((2 * 0.5 / 1.5, 0.5, 1.0))
    assert information == pytest.approx((2 * (2 / 3) / (5 / 3), 2 / 3, 1.0))


def test_all_merged() -> None:
    """One segment: sum p^2 = sum t^2 = 1/4, sum s^2 = 1. H(S) = I = 0: nothing is split, everything merged."""
    rand, information = both(np.full((8, 8), 7), four_quarters())
    assert rand == pytest.approx((2 * 0.25 / 1.25, 1.0, 0.25))
    assert information == pytest.approx((0.0, 1.0, 0.0))


def test_split_and_merge_swap_with_the_arguments() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(1, 5, size=(2, 9, 9))
    for scores in (rand_scores, information_scores):
        forward, backward = scores(first, second), scores(second, first)
        assert forward.split == pytest.approx(backward.merge)
        assert forward.split != pytest.approx(forward.merge, abs=1e-6)
        assert forward.f_score == pytest.approx(backward.f_score)
        assert 2 / (1 / forward.split + 1 / forward.merge) == pytest.approx(forward.f_score)


def test_numbers_of_segments_are_arbitrary() -> None:
    rng = np.random.default_rng(1)
    proposed, reference = rng.integers(0, 6, size=(2, 12, 12))
    new_numbers = np.array([0, 1_000_000_007, 3, 2_000_000_000, 17, 256])
    for scores in (rand_scores, information_scores):
        assert scores(new_numbers[proposed], new_numbers[reference]) == pytest.approx(scores(proposed, reference))
        assert scores(proposed.astype(np.uint8), reference.astype(np.int16)) == scores(proposed, reference)


def test_membrane_of_the_reference_does_not_count() -> None:
    rng = np.random.default_rng(2)
    reference = four_quarters()
    reference[2:5] = 0
    proposed = rng.integers(0, 4, size=(8, 8))
    changed = np.where(reference == 0, rng.integers(0, 9, size=(8, 8)), proposed)
    assert (changed != proposed).any()
    assert both(changed, reference) == both(proposed, reference)
    cropped = reference > 0
    assert both(proposed[cropped], reference[cropped]) == both(proposed, reference)


def test_border_pixels_are_segments_of_their_own() -> None:
    rng = np.random.default_rng(3)
    proposed, reference = rng.integers(0, 3, size=(2, 7, 7))
    numbered = np.where(proposed == 0, 100 + np.arange(49).reshape(7, 7), proposed)
    for scores in (rand_scores, information_scores):
        assert scores(proposed, reference) == pytest.approx(scores(numbered, reference))
    # by hand: of 4 pixels in one segment one is border, pieces 3 and 1: (9 + 1) / 16
    assert rand_scores(np.array([[1, 1, 1, 0]]), np.ones((1, 4), dtype=int)) == pytest.approx((20 / 26, 10 / 16, 1.0))


def test_rand_scores_count_pairs() -> None:
    """All ordered pairs of pixels, one by one, a pixel with itself included (sums of squares count those too)."""
    rng = np.random.default_rng(4)
    proposed, reference = rng.integers(0, 4, size=(2, 6, 5))
    pixels = [
        (f"border {i}" if s == 0 else s, t) for i, (s, t) in enumerate(zip(proposed.flat, reference.flat, strict=True))
    ]
    pairs = [(a[0] == b[0], a[1] == b[1]) for a, b in product([pixel for pixel in pixels if pixel[1]], repeat=2)]
    in_both = sum(s and t for s, t in pairs)
    in_proposed, in_reference = sum(s for s, _ in pairs), sum(t for _, t in pairs)
    assert rand_scores(proposed, reference) == pytest.approx(
        (2 * in_both / (in_proposed + in_reference), in_both / in_reference, in_both / in_proposed)
    )


def test_information_scores_from_the_joint_distribution() -> None:
    """I = sum p log(p / (s t)) over the dense table of a partition without borders."""
    rng = np.random.default_rng(5)
    proposed, reference = rng.integers(1, 5, size=(2, 6, 5))
    table = np.zeros((5, 5))
    np.add.at(table, (proposed, reference), 1 / 30)
    table = table[1:, 1:]
    s, t = table.sum(1, keepdims=True), table.sum(0, keepdims=True)
    used = table > 0
    mutual = (table[used] * np.log((table / (s * t))[used])).sum()
    h_s, h_t = -(s * np.log(s)).sum(), -(t * np.log(t)).sum()
    expected = (2 * mutual / (h_s + h_t), mutual / h_s, mutual / h_t)
    assert information_scores(proposed, reference) == pytest.approx(expected)


def test_degenerate_references() -> None:
    one, nothing, halves = np.ones((4, 4), dtype=int), np.zeros((4, 4), dtype=int), np.repeat([[1, 2]], 8).reshape(4, 4)
    assert both(halves, nothing) == ((1, 1, 1), (1, 1, 1))  # nothing to get wrong
    assert both(one, one) == ((1, 1, 1), (1, 1, 1))
    rand, information = both(halves, one)
    assert rand == pytest.approx((2 / 3, 0.5, 1.0))
    assert information == pytest.approx((0.0, 0.0, 1.0))


@pytest.mark.parametrize(
    ("proposed", "reference", "message"),
    [
        (np.ones((2, 2), dtype=int), np.ones((2, 3), dtype=int), "differ in shape"),
        (np.ones((2, 2)), np.ones((2, 2), dtype=int), "proposed must hold integers"),
        (np.ones((2, 2), dtype=int), -np.ones((2, 2), dtype=int), "reference must hold integers from 0"),
    ],
)
def test_label_maps_are_checked(proposed: np.ndarray, reference: np.ndarray, message: str) -> None:
    for scores in (rand_scores, information_scores):
        with pytest.raises(ValueError, match=message):
            scores(proposed, reference)


def test_reference_segments_are_4_connected() -> None:
    assert reference_segments(np.array([[1, 0, -1], [0, 1, 1]])).tolist() == [[1, 0, 0], [0, 2, 2]]


def test_proposal_starts_at_the_threshold() -> None:
    probability = np.array([[0.3, 0.2, 0.3]], dtype=np.float32)  # 0.3 in float32 is above 0.3 in float64, 0.7 below
    assert proposed_segments(probability, 0.3).tolist() == [[1, 0, 2]]
    assert proposed_segments(1 - probability, 0.75).tolist() == [[1, 1, 1]]
    assert proposed_segments(np.array([[0.7, 0.6, 0.7]], dtype=np.float32), 0.7).tolist() == [[1, 0, 2]]


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7])
def test_thick_membrane_becomes_a_line(width: int) -> None:
    background = np.ones((9, 20), dtype=bool)
    background[:, 6 : 6 + width] = False
    for mask in (background, background.T):
        segments = thin_borders(mask)
        segments = segments if mask is background else segments.T
        assert ((segments == 0).sum(axis=1) == 1).all()
        assert set(segments[:, 0]) == {1}
        assert set(segments[:, -1]) == {2}
        border = int(np.flatnonzero(segments[0] == 0)[0])
        assert abs(border - (6 + (width - 1) / 2)) <= 0.5  # in the middle


def test_loose_end_vanishes_and_flat_images_are_one_segment() -> None:
    background = np.ones((9, 9), dtype=bool)
    background[4, :6] = False
    for mask in (background, np.ones((9, 9), dtype=bool), np.zeros((9, 9), dtype=bool)):
        assert (thin_borders(mask) == 1).all()


@pytest.mark.parametrize(("sigma", "share"), [(0, 0.2), (0, 0.6), (1, 0.3), (2, 0.5), (4, 0.8)])
def test_thinning_keeps_the_segments(sigma: float, share: float) -> None:
    """On masks of blurred noise: components keep their pixels and numbers, none touch, borders get no wider."""
    noise = gaussian_filter(np.random.default_rng(6).normal(size=(96, 128)), sigma)
    background = noise < np.quantile(noise, share)
    components, count = label(background)
    assert count > 1
    segments = thin_borders(background)
    assert (segments[background] == components[background]).all()
    assert (np.unique(segments[segments > 0]) == np.arange(1, count + 1)).all()
    for one, other in ((segments[1:], segments[:-1]), (segments[:, 1:], segments[:, :-1])):
        assert not ((one != other) & (one > 0) & (other > 0)).any()
    assert (segments == 0).sum() < (~background).sum()


def test_thick_membrane_scores_like_a_thin_one() -> None:
    labels = cells()
    thick = binary_erosion(labels == 1, iterations=4, border_value=1)
    reference = reference_segments(labels)
    assert both(proposed_segments(thick.astype(float), 0.5), reference) == both(
        proposed_segments(labels.astype(float), 0.5), reference
    )
    # without thinning every eroded pixel is a segment of its own
    assert rand_scores(label(thick)[0], reference).split < 0.6


def test_gap_in_a_membrane_merges() -> None:
    """2 of 4 equal cells become one: sum t^2 = 4/16, sum s^2 = 2/16 + 4/16; the gap itself is membrane, uncounted."""
    reference = reference_segments(cells())
    rand = rand_scores(proposed_segments(cells(gap=1).astype(float), 0.5), reference)
    assert rand == pytest.approx((2 * (4 / 6) / (1 + 4 / 6), 1.0, 4 / 6))


def test_search_finds_the_threshold_per_metric() -> None:
    """Up to 0.3 a membrane of probability 0.35 is a gap, from 0.7 on a faint line cuts a cell."""
    labels = np.stack([cells(), cells()])
    probabilities = np.where(labels == 1, 0.95, 0.05)
    probabilities[:, 3:6, 16] = 0.35
    probabilities[:, 17:, 8] = 0.65  # a false membrane
    scores = best_segment_scores(probabilities.astype(np.float32), labels)
    assert (scores.v_rand, scores.v_rand_split, scores.v_rand_merge, scores.rand_threshold) == (1.0, 1.0, 1.0, 0.4)
    assert (scores.v_info, scores.info_threshold) == (pytest.approx(1.0), 0.4)
    merged = best_segment_scores(probabilities, labels, thresholds=[0.2])
    assert merged.rand_threshold == merged.info_threshold == 0.2
    assert merged.v_rand_split == 1.0
    assert merged.v_rand_merge == pytest.approx(4 / 6)
    assert merged.v_info_merge < merged.v_info < merged.v_info_split
    cut = best_segment_scores(probabilities, labels, thresholds=[0.9, 0.8])
    assert cut.rand_threshold == 0.9  # both are equal, the first given one stays
    assert cut.v_rand_split < cut.v_rand < cut.v_rand_merge


def test_each_score_has_its_own_threshold() -> None:
    """Two merged cells cost V_rand much and V_info less than cutting one large cell into stripes."""
    labels = np.ones((40, 60), dtype=np.uint8)
    labels[:, 40] = 0
    labels[20, 40:] = 0
    probabilities = np.where(labels == 1, 0.9, 0.1)
    probabilities[10:12, 40] = 0.5  # open up to 0.5: merges the large cell with a small one
    probabilities[::3, 47:] = np.minimum(probabilities[::3, 47:], 0.7)  # cut from 0.8 on: stripes of the small cells
    probabilities[::3, 40:47] = np.minimum(probabilities[::3, 40:47], 0.7)
    at = {t: best_segment_scores(probabilities[None], labels[None], [t]) for t in (0.5, 0.8)}
    assert at[0.5].v_rand < at[0.8].v_rand
    assert at[0.5].v_info > at[0.8].v_info
    best = best_segment_scores(probabilities[None], labels[None], [0.5, 0.8])
    assert (best.rand_threshold, best.info_threshold) == (0.8, 0.5)
    assert (best.v_rand, best.v_rand_split, best.v_rand_merge) == (
        at[0.8].v_rand,
        at[0.8].v_rand_split,
        at[0.8].v_rand_merge,
    )
    assert (best.v_info, best.v_info_split, best.v_info_merge) == (
        at[0.5].v_info,
        at[0.5].v_info_split,
        at[0.5].v_info_merge,
    )


def test_stack_is_the_mean_of_its_slices_without_empty_ones() -> None:
    labels = np.stack([cells(), cells(), np.zeros((33, 33), dtype=np.uint8)])
    probabilities = np.stack([cells(), cells(gap=2), cells()]).astype(np.float32)
    alone = [best_segment_scores(probabilities[i : i + 1], labels[i : i + 1], [0.5]) for i in range(3)]
    stack = best_segment_scores(probabilities, labels, [0.5])
    for name in ("v_rand", "v_rand_split", "v_rand_merge", "v_info", "v_info_split", "v_info_merge"):
        assert getattr(stack, name) == pytest.approx((getattr(alone[0], name) + getattr(alone[1], name)) / 2)
        assert getattr(alone[2], name) == 1.0
    assert alone[0].v_rand > alone[1].v_rand


@pytest.mark.parametrize(
    ("probabilities", "labels", "thresholds", "message"),
    [
        (np.ones((4, 4)), np.ones((4, 4), dtype=int), [0.5], "stacks of one shape"),
        (np.ones((0, 4, 4)), np.ones((0, 4, 4), dtype=int), [0.5], "stacks of one shape"),
        (np.ones((1, 4, 4)), np.full((1, 4, 4), 255, dtype=np.uint8), [0.5], "uint8 255"),
        (np.ones((1, 4, 4)), np.ones((1, 4, 4)), [0.5], "labels must be integers"),
        (np.full((1, 4, 4), 1.5), np.ones((1, 4, 4), dtype=int), [0.5], "from 1.5 to 1.5"),
        (np.full((1, 4, 4), np.nan), np.ones((1, 4, 4), dtype=int), [0.5], "from nan"),
        (np.ones((1, 4, 4), dtype=np.uint8), np.ones((1, 4, 4), dtype=int), [0.5], "must be floats"),
        (np.ones((1, 4, 4)), np.ones((1, 4, 4), dtype=int), [], "at least one"),
    ],
)
def test_stacks_are_checked(
    probabilities: np.ndarray, labels: np.ndarray, thresholds: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        best_segment_scores(probabilities, labels, thresholds)


@pytest.mark.real_data
def test_real_labels(data_folder: Path) -> None:
    """Labels against themselves are perfect; thinner membranes cost nothing, a gap of a few pixels a lot."""
    from PIL import Image

    with Image.open(data_folder / "isbi2012_em" / "train-labels.tif") as file:
        slices = []
        for page in (0, 14):
            file.seek(page)
            slices.append(np.asarray(file) == 255)
    labels = np.stack(slices)
    perfect = best_segment_scores(labels.astype(np.float32), labels, [0.5])
    assert (perfect.v_rand, perfect.v_rand_split, perfect.v_rand_merge) == (1.0, 1.0, 1.0)
    assert perfect.v_info == pytest.approx(1.0)

    thin = labels | (np.stack([thin_borders(mask) for mask in labels]) > 0)
    assert thin.sum() > labels.sum()
    kept = best_segment_scores(thin.astype(np.float32), labels, [0.5])
    assert min(kept.v_rand, kept.v_info) > 0.999  # lines instead of membranes

    opened = labels.copy()
    # a row of 7 pixels between the two neighbours whose smaller one is largest
    reference = reference_segments(labels[0])
    sizes = np.bincount(reference.ravel())
    left, right = reference[:, :-8], reference[:, 8:]
    smaller = np.where((left != right) & (left > 0) & (right > 0), np.minimum(sizes[left], sizes[right]), 0)
    y, x = np.unravel_index(smaller.argmax(), smaller.shape)
    opened[0, y, x + 1 : x + 8] = True
    gap = best_segment_scores(opened.astype(np.float32), labels, [0.5])
    assert gap.v_rand_merge < gap.v_rand < 0.999
    assert gap.v_info < perfect.v_info
    assert gap.v_rand_split == pytest.approx(1.0)
