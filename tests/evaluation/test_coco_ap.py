"""Golden numbers are those of pycocotools 2.0.11 (`eval["precision"]` and `eval["recall"]`, maxDets 1, 10 and 500)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_ext.evaluation.coco_ap import RECALLS, CocoScores
from monai_ext.evaluation.instance_objects import ImageObjects, MaskWindow

GOLDEN = Path(__file__).with_name("coco_golden.json")
SQUARE = 10


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return content


def ellipse(size: tuple[int, int], cy: int, cx: int, ry: int, rx: int) -> MaskWindow:
    """An ellipse by whole numbers only, cut to the image, in a window that is a little too large."""
    y, x = np.mgrid[: size[0], : size[1]]
    mask = (y - cy) ** 2 * rx**2 + (x - cx) ** 2 * ry**2 <= ry**2 * rx**2
    top, left = max(0, cy - ry - 1), max(0, cx - rx - 1)
    return MaskWindow(top, left, mask[top : cy + ry + 2, left : cx + rx + 2])


def tight_box(mask: MaskWindow) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.inside.any(1)), np.flatnonzero(mask.inside.any(0))
    corner = (mask.left, mask.top)
    return (
        corner[0] + int(columns[0]),
        corner[1] + int(rows[0]),
        corner[0] + int(columns[-1]) + 1,
        corner[1] + int(rows[-1]) + 1,
    )


def image_objects(rows: list[list[int]], size: tuple[int, int], scored: bool) -> ImageObjects:
    """Of rows (label, cy, cx, ry, rx, score in hundredths or crowd)."""
    if scored:
        rows = [rows[i] for i in np.argsort([-row[5] for row in rows], kind="stable")]
    masks = tuple(ellipse(size, *row[1:5]) for row in rows)
    last = np.array([row[5] for row in rows], dtype=np.float64)
    return ImageObjects(
        np.array([tight_box(mask) for mask in masks], dtype=np.float64).reshape(-1, 4),
        np.array([row[0] for row in rows], dtype=np.int64),
        masks,
        last / 100 if scored else np.zeros(len(rows)),
        np.zeros(len(rows), dtype=bool) if scored else last > 0,
    )


def golden_scores(golden: dict[str, Any]) -> CocoScores:
    scores = CocoScores(2, golden["max_detections"])
    for number, size in enumerate(golden["sizes"]):
        reference, found = (
            image_objects([row[1:] for row in golden[name] if row[0] == number], tuple(size), scored)
            for name, scored in (("references", False), ("found", True))
        )
        scores.add(reference, found)
    return scores


def squares(corners: list[tuple[int, int]], label: int = 1, scores: list[float] | None = None) -> ImageObjects:
    count = len(corners)
    boxes = np.array([(x, y, x + SQUARE, y + SQUARE) for x, y in corners], dtype=np.float64).reshape(-1, 4)
    inside = np.ones((SQUARE, SQUARE), dtype=bool)
    return ImageObjects(
        boxes,
        np.full(count, label, dtype=np.int64),
        tuple(MaskWindow(y, x, inside) for x, y in corners),
        np.array(scores if scores is not None else np.linspace(1, 0.5, count)),
        np.zeros(count, dtype=bool),
    )


def grid(count: int, step: int = 20, columns: int = 20) -> list[tuple[int, int]]:
    return [(step * (i % columns), step * (i // columns)) for i in range(count)]


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_numbers_of_pycocotools(golden: dict[str, Any], kind: str) -> None:
    """Crowds, ties of scores, both classes mixed up, no objects, no detections, all ranges of size, 130 in an image."""
    scores = golden_scores(golden)
    precision = scores.precision(kind)
    recall = np.stack([scores.recall(kind, most) for most in golden["max_detections"]], axis=-1)
    expected = [np.array(golden[name][kind], dtype=np.float64) for name in ("precision", "recall", "curve")]
    # golden numbers have 12 decimals
    np.testing.assert_allclose(precision.mean(1).ravel(), expected[0], rtol=0, atol=1e-11)
    np.testing.assert_allclose(recall.ravel(), expected[1], rtol=0, atol=1e-11)
    np.testing.assert_allclose(precision[[0, 5], ..., 0].ravel(), expected[2], rtol=0, atol=1e-11)
    assert np.isfinite(expected[0]).mean() > 0.5
    overall = scores.overall()
    by_threshold = expected[0].reshape(10, 2, 9)
    assert overall[f"{kind}_ap"] == pytest.approx(by_threshold[..., 0].mean(), abs=1e-11)
    assert overall[f"{kind}_ap50"] == pytest.approx(by_threshold[0, :, 0].mean(), abs=1e-11)
    assert overall[f"{kind}_ap75"] == pytest.approx(by_threshold[5, :, 0].mean(), abs=1e-11)
    assert overall[f"{kind}_ap_small"] == pytest.approx(np.nanmean(by_threshold[..., 1]), abs=1e-11)
    assert overall[f"{kind}_ar_10"] == pytest.approx(np.nanmean(expected[1].reshape(10, 2, 9, 3)[..., 0, 1]), abs=1e-11)
    assert 0.2 < overall[f"{kind}_ap"] < overall[f"{kind}_ap50"] < 0.95


@pytest.mark.parametrize("most", [100, 300, 500])
def test_more_than_a_hundred_objects_in_an_image(most: int) -> None:
    """300 squares found one pixel aside overlap by 90 / 110: AP 1 up to IoU 0.80, 0 beyond; 100 of them reach a third
    of the recall."""
    scores = CocoScores(1, (1, 10, most))
    corners = grid(300)
    scores.add(squares(corners), squares([(x + 1, y) for x, y in corners]))
    reached = 1.0 if most >= 300 else (RECALLS <= 1 / 3).mean()
    overall = scores.overall()
    for kind in ("box", "mask"):
        assert overall[f"{kind}_ap50"] == pytest.approx(reached)
        assert overall[f"{kind}_ap"] == pytest.approx(0.7 * reached)
        assert overall[f"{kind}_ar_{most}"] == pytest.approx(0.7 * min(1, most / 300))
        assert overall[f"{kind}_ar_1"] == pytest.approx(0.7 / 300)
    assert scores.cut == max(0, 300 - most)


def test_an_overlap_equal_to_the_threshold_counts() -> None:
    """60 of 100 pixels are found: an overlap of exactly 0.6, the third threshold."""
    scores = CocoScores(1)
    part = np.zeros((SQUARE, SQUARE), dtype=bool)
    part[:6] = True
    whole = squares([(0, 0)])
    scores.add(whole, ImageObjects(whole.boxes, whole.labels, (MaskWindow(0, 0, part),), whole.scores, whole.crowd))
    assert scores.recall("mask", 500)[:, 0, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]


def test_duplicates_are_wrong_and_order_decides() -> None:
    """Two detections of one object of two: the surer takes it, the other one is wrong."""
    scores = CocoScores(1)
    scores.add(squares([(0, 0), (50, 50)]), squares([(0, 0), (0, 0)], scores=[0.9, 0.8]))
    # precision 1 at recall 1/2, which 51 of 101 recalls reach
    assert scores.overall()["mask_ap50"] == pytest.approx(51 / 101)
    worse = CocoScores(1)
    worse.add(squares([(0, 0), (50, 50)]), squares([(100, 100), (0, 0)], scores=[0.9, 0.8]))
    assert worse.overall()["mask_ap50"] == pytest.approx(0.5 * 51 / 101)


def test_crowd_regions_are_neither_right_nor_wrong() -> None:
    plain, crowded = CocoScores(1), CocoScores(1)
    reference = squares([(0, 0), (40, 0)])
    region = np.ones((30, 100), dtype=bool)
    with_crowd = ImageObjects(
        np.concatenate([reference.boxes, [[0, 100, 100, 130]]]),
        np.ones(3, dtype=np.int64),
        (*reference.masks, MaskWindow(100, 0, region)),
        np.zeros(3),
        np.array([False, False, True]),
    )
    found = squares([(0, 105), (40, 110), (0, 0), (40, 0)], scores=[0.99, 0.98, 0.9, 0.8])
    plain.add(reference, found)
    crowded.add(with_crowd, found)
    assert crowded.overall()["mask_ap50"] == crowded.overall()["box_ap50"] == 1
    assert plain.overall()["mask_ap50"] == pytest.approx(0.5)


def test_what_is_undefined_is_nan() -> None:
    scores = CocoScores(3)
    scores.add(squares([(0, 0)], 1), squares([(0, 0)], 3))
    overall, per_class = scores.overall(), scores.per_class()
    assert per_class["mask_ap50"][0] == 0  # annotated, not found
    assert np.isnan(per_class["mask_ap50"][1:]).all()  # class 3 is found where none is annotated
    assert overall["mask_ap50"] == 0
    assert np.isnan(overall["mask_ap_large"])
    empty = CocoScores(1)
    empty.add(squares([]), squares([]))
    assert all(np.isnan(value) for value in empty.overall().values())


def test_images_are_pooled_by_score() -> None:
    """A wrong detection of one image goes before the right ones of another if it is surer."""
    scores = CocoScores(1)
    scores.add(squares([(0, 0)]), squares([(0, 0)], scores=[0.5]))
    scores.add(squares([]), squares([(0, 0)], scores=[0.6]))
    assert scores.overall()["mask_ap50"] == pytest.approx(0.5)
    assert scores.overall()["box_ap50"] == pytest.approx(0.5)
