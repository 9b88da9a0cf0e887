"""Scores of label maps against plain loops over objects."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from monai_ext.evaluation import instance_scores
from monai_ext.evaluation.instance_scores import THRESHOLDS, LabelMapScores, count, overall_scores, overlap_table
from monai_ext.evaluation.painted_labels import painted_detections
from monai_ext.networks.mask_rcnn.structures import Detections


def blobs(seed: int, number: int = 25, size: tuple[int, int] = (70, 90)) -> np.ndarray:
    """Ellipses, later ones over earlier ones, numbered without gaps."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    labels = np.zeros(size, dtype=np.int32)
    for value in range(1, number + 1):
        cy, cx, ry, rx = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(2, 9), rng.uniform(2, 9)
        labels[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1] = value
    return renumbered(labels)


def renumbered(labels: np.ndarray) -> np.ndarray:
    values, inverse = np.unique(labels, return_inverse=True)
    return inverse.reshape(labels.shape).astype(np.int32) + (0 if values[0] == 0 else 1)


def disturbed(labels: np.ndarray, seed: int) -> np.ndarray:
    """Objects moved a little, some of them lost, and new ones."""
    rng = np.random.default_rng(seed)
    moved = np.zeros_like(labels)
    for value in range(1, labels.max() + 1):
        if rng.random() < 0.85:
            shift = tuple(int(s) for s in rng.integers(-2, 3, 2))
            moved[np.roll(labels == value, shift, (0, 1))] = value
    extra = blobs(seed + 1, 4, labels.shape)
    moved[(extra > 0) & (moved == 0)] = (extra + labels.max())[(extra > 0) & (moved == 0)]
    return renumbered(moved)


def iou_matrix(reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    matrix = np.zeros((reference.max(), prediction.max()))
    for i in range(matrix.shape[0]):
        for k in range(matrix.shape[1]):
            a, b = reference == i + 1, prediction == k + 1
            matrix[i, k] = (a & b).sum() / (a | b).sum()
    return matrix


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dense", [True, False])
def test_scores_are_those_of_an_assignment(seed: int, dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not dense:
        monkeypatch.setattr(instance_scores, "DENSE_TABLE", 0)
    reference = blobs(seed)
    prediction = disturbed(reference, seed + 100)
    ious = iou_matrix(reference, prediction)
    counts = count(overlap_table(reference, prediction))
    assert (counts.references, counts.predictions) == ious.shape
    for threshold, found in zip(THRESHOLDS, counts.found, strict=True):
        rows, columns = linear_sum_assignment(-(ious > threshold).astype(float))
        assert found == (ious > threshold)[rows, columns].sum()
    scores = counts.scores()
    right = (ious > 0.5).sum()
    assert 3 < right < min(ious.shape)
    wrong, missed = ious.shape[1] - right, ious.shape[0] - right
    assert scores["ap50"] == pytest.approx(right / (right + wrong + missed))
    assert scores["f1_50"] == scores["rq"] == pytest.approx(2 * right / (2 * right + wrong + missed))
    assert scores["sq"] == pytest.approx(ious[ious > 0.5].mean())
    assert scores["pq"] == pytest.approx(scores["sq"] * scores["rq"])
    assert scores["ap"] == pytest.approx(np.mean([scores[f"ap{step}"] for step in range(50, 100, 5)]))
    both = ((reference > 0) & (prediction > 0)).sum()
    assert scores["dice"] == pytest.approx(2 * both / ((reference > 0).sum() + (prediction > 0).sum()))


@pytest.mark.parametrize("seed", range(4))
def test_aggregated_jaccard_index(seed: int) -> None:
    """The loop of the paper: every annotated object with its best partner, partners never used added at the end."""
    reference = blobs(seed)
    prediction = disturbed(reference, seed + 100)
    ious = iou_matrix(reference, prediction)
    used, shared, union = set(), 0, 0
    for i in range(len(ious)):
        a = reference == i + 1
        best = int(ious[i].argmax())
        if ious[i, best] == 0:
            union += a.sum()
            continue
        b = prediction == best + 1
        used.add(best)
        shared += (a & b).sum()
        union += (a | b).sum()
    union += sum((prediction == k + 1).sum() for k in range(ious.shape[1]) if k not in used)
    scores = count(overlap_table(reference, prediction)).scores()
    assert scores["aji"] == pytest.approx(shared / union)
    assert 0.2 < scores["aji"] < 0.9


def test_an_overlap_of_one_half_is_no_match() -> None:
    reference, prediction = np.zeros((2, 4), dtype=np.int32), np.zeros((2, 4), dtype=np.int32)
    reference[0], prediction[0, :2] = 1, 1
    assert count(overlap_table(reference, prediction)).found[0] == 0
    prediction[0, :3] = 1  # 3 / 4
    assert count(overlap_table(reference, prediction)).found == (1, 1, 1, 1, 1, 0, 0, 0, 0, 0)


def test_pooled_and_per_image_differ() -> None:
    """One image with 1 of 1 found, one with 1 of 3: pooled 2 / 4, mean of images (1 + 1 / 3) / 2."""
    row = np.zeros((3, 40), dtype=np.int32)
    row[:, :5] = 1
    three = row.copy()
    three[:, 10:15], three[:, 20:25] = 2, 3
    images = {"a": count(overlap_table(row, row)), "b": count(overlap_table(three, row))}
    scores = overall_scores(images)
    assert scores["nuclei_ap50"] == scores["nuclei_ap"] == pytest.approx(0.5)
    assert scores["nuclei_ap50_per_image"] == pytest.approx(2 / 3)
    assert scores["nuclei_ap_per_image"] == pytest.approx(2 / 3)
    assert scores["nuclei_count_error"] == 1
    assert scores["nuclei_count_bias"] == -1
    empty = count(overlap_table(np.zeros_like(row), np.zeros_like(row)))
    with_empty = overall_scores(images | {"c": empty})
    assert np.isnan(empty.scores()["ap"])
    assert np.isnan(empty.scores()["aji"])
    assert with_empty["nuclei_ap_per_image"] == scores["nuclei_ap_per_image"]
    assert with_empty["nuclei_count_error"] == pytest.approx(2 / 3)
    only_wrong = count(overlap_table(np.zeros_like(row), row)).scores()
    assert only_wrong["ap50"] == only_wrong["pq"] == only_wrong["aji"] == 0
    assert np.isnan(only_wrong["sq"])


def test_classes_must_agree() -> None:
    labels = np.zeros((4, 30), dtype=np.int32)
    labels[:, :5], labels[:, 10:15] = 1, 2
    overlaps = overlap_table(labels, labels, np.array([1, 2]), np.array([1, 1]))
    assert count(overlaps).found[0] == 1
    assert count(overlaps).pixels == (40, 40, 40)
    assert count(overlaps.of_class(1)).scores()["ap50"] == 0.5
    assert count(overlaps.of_class(2)).scores()["ap50"] == 0


def test_crowd_regions_do_not_count() -> None:
    reference, prediction = np.zeros((10, 40), dtype=np.int32), np.zeros((10, 40), dtype=np.int32)
    reference[:5, :5] = prediction[:5, :5] = 1
    prediction[:4, 20:24] = 2  # wholly in the crowd
    prediction[:4, 28:34] = 3  # a third of it
    crowd = np.zeros((10, 40), dtype=bool)
    crowd[:, 18:30] = True
    overlaps = overlap_table(reference, prediction, crowd=crowd)
    assert overlaps.found_areas.tolist() == [25, 16]
    assert count(overlaps).scores()["ap50"] == 0.5
    assert count(overlap_table(reference, prediction)).scores()["ap50"] == pytest.approx(1 / 3)


def test_higher_thresholds_as_if_painted_with_them() -> None:
    """Overlapping boxes of random scores: choosing from one painting gives what painting anew gives."""
    import torch

    generator = torch.Generator().manual_seed(3)
    corner = torch.rand((60, 2), generator=generator) * 80
    boxes = torch.cat([corner, corner + 4 + 16 * torch.rand((60, 2), generator=generator)], 1)
    scores = torch.rand(60, generator=generator)
    scores[:5] = torch.tensor([0.3, 0.45, 0.6, 0.75, 0.9])  # thresholds are reached by equal scores, in float32
    scores = scores.sort(descending=True).values
    detections = Detections(boxes, scores, torch.ones(60, dtype=torch.int64), torch.rand((60, 14, 14)) + 0.2)
    reference = blobs(5, 40, (100, 100))
    painted, places = painted_detections(detections, 100, 100, 0.3, 6)
    collected = LabelMapScores()
    collected.add("a", overlap_table(reference, painted, found_scores=scores.double().numpy()[places]))
    different = set()
    for threshold in (0.3, 0.45, 0.6, 0.75, 0.9):
        anew, _ = painted_detections(detections, 100, 100, threshold, 6)
        expected = count(overlap_table(reference, anew))
        assert collected.counts(threshold)["a"] == expected
        different.add(expected.predictions)
    assert len(different) == 5
    rows = collected.by_threshold([0.3, 0.9])
    assert rows[0]["score_threshold"] == 0.3
    assert rows[0]["nuclei_dice"] > rows[1]["nuclei_dice"] > 0


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        overlap_table(np.zeros((2, 3), dtype=np.int32), np.zeros((3, 2), dtype=np.int32))
    with pytest.raises(ValueError, match=r"begin with 0\.5"):
        count(overlap_table(np.zeros((2, 2), dtype=np.int32), np.zeros((2, 2), dtype=np.int32)), (0.4, 0.5))
