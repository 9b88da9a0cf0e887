"""Polygons and run lengths give the pixels that COCO's own tools give."""

from __future__ import annotations

import numpy as np
import pytest

from monai_ext.datasets.coco_masks import PixelRuns, crosses_itself, pack_counts, runs_of_label_map, unpack_counts

# polygons in an image of 20 x 20 and what pycocotools 2.0.11 made of them: packed run lengths and area
RASTERISED = [
    ([2.5, 1.25, 15.75, 4.5, 9.0, 17.5], "m12c02M3M2N3N1N1ON2N3M2N2N2N^2", 99),
    ([1, 1, 18, 18, 18, 1, 1, 18], "e0`05N2N2N2N2N2N2Ne00[O2N2N2N2N2N2N2V1", 144),
    ([3, 3, 3.5, 3, 3.5, 12, 3, 12], "o19X:", 9),
    ([-4, 5, 8, -3, 25, 12, 10, 30], "2;83N1N3N^4OcK1O1O1O1O001O1NJ", 344),
]


@pytest.mark.parametrize(("polygon", "packed", "area"), RASTERISED)
def test_polygons_are_filled_as_pycocotools_does(polygon: list[float], packed: str, area: int) -> None:
    runs = PixelRuns.from_polygons([polygon], 20, 20)
    assert runs.to_coco() == {"size": [20, 20], "counts": packed}
    assert runs.area == area == runs.mask().sum()
    reversed_polygon = np.array(polygon).reshape(-1, 2)[::-1].ravel()
    assert PixelRuns.from_polygons([reversed_polygon], 20, 20).to_coco()["counts"] == packed, "direction"


def test_rectangles_hold_exactly_their_pixels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        (y0, y1), (x0, x1) = np.sort(rng.choice(18, 2, replace=False)), np.sort(rng.choice(25, 2, replace=False))
        wanted = np.zeros((17, 24), dtype=bool)
        wanted[y0:y1, x0:x1] = True
        runs = PixelRuns.from_polygons([[x0, y0, x1, y0, x1, y1, x0, y1]], 17, 24)
        np.testing.assert_array_equal(runs.mask(), wanted)
        assert runs.box() == (x0, y0, x1, y1)
        closed = PixelRuns.from_polygons([[x0, y0, x1, y0, x1, y1, x0, y1, x0, y0]], 17, 24)
        np.testing.assert_array_equal(closed.mask(), wanted, "a repeated first point changes nothing")


def test_a_polygon_approaches_its_shape() -> None:
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    disc = np.stack([50.3 + 30 * np.cos(angle), 41.7 + 30 * np.sin(angle)], axis=1).ravel()
    y, x = np.mgrid[:90, :100] + 0.5
    inside = np.hypot(x - 50.3, y - 41.7)
    mask = PixelRuns.from_polygons([disc], 90, 100).mask()
    # outlines are rounded to a fifth of a pixel, so pixels whose centres are further from the edge are certain
    assert mask[inside < 29.5].all()
    assert not mask[inside > 30.5].any()


def test_several_polygons_are_united() -> None:
    one, two = [1, 1, 5, 1, 5, 5, 1, 5], [3, 3, 8, 3, 8, 8, 3, 8]
    both = PixelRuns.from_polygons([one, two], 10, 10)
    masks = [PixelRuns.from_polygons([polygon], 10, 10).mask() for polygon in (one, two)]
    np.testing.assert_array_equal(both.mask(), masks[0] | masks[1])
    assert both.area == 16 + 25 - 4


def test_masks_and_runs_are_each_other() -> None:
    rng = np.random.default_rng(1)
    for density in (0.0, 0.02, 0.5, 0.98, 1.0):
        mask = rng.random((13, 7)) < density
        runs = PixelRuns.from_mask(mask)
        np.testing.assert_array_equal(runs.mask(), mask)
        assert runs.area == mask.sum()
        counts = runs.counts()
        assert counts.sum() == mask.size
        assert (counts[1:] > 0).all()
        np.testing.assert_array_equal(unpack_counts(pack_counts(counts)), counts)
        np.testing.assert_array_equal(PixelRuns.from_counts(counts, 13, 7).mask(), mask)
        rows, columns = np.nonzero(mask)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if mask.any() else (0, 0, 0, 0)
        assert runs.box() == box


def test_runs_of_all_objects_of_a_label_map() -> None:
    labels = np.random.default_rng(2).integers(0, 6, (9, 11)).astype(np.int32)
    labels[labels == 3] = 0
    found = runs_of_label_map(labels)
    assert len(found) == 5
    for number, runs in enumerate(found, start=1):
        np.testing.assert_array_equal(runs.mask(), labels == number)
        assert runs.to_coco() == PixelRuns.from_mask(labels == number).to_coco()
    assert runs_of_label_map(np.zeros((4, 5), dtype=np.int32)) == []
    whole = runs_of_label_map(np.ones((4, 5), dtype=np.int32))
    assert [one.area for one in whole] == [20]


def test_run_lengths_start_with_background() -> None:
    # rows of a 2 x 3 image; positions run down the columns
    assert PixelRuns.from_counts([1, 2, 3], 2, 3).mask().tolist() == [[False, True, False], [True, False, False]]
    assert PixelRuns.from_counts([0, 6], 2, 3).mask().all()
    assert PixelRuns.from_counts([0, 2, 0, 1, 3], 2, 3).counts().tolist() == [0, 3, 3], "empty runs are joined"


def test_packing_large_and_falling_numbers() -> None:
    counts = [5, 100000, 3, 2, 70000, 99999, 1]
    packed = pack_counts(counts)
    assert packed == "5PeQ33R[nL][T2mdQ3adkM", "by pycocotools 2.0.11"
    assert unpack_counts(packed).tolist() == counts
    assert unpack_counts(packed.encode()).tolist() == counts
    assert unpack_counts("").tolist() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 2", "no run lengths"), ("1é", "no run lengths"), ("P", "cut off"), ("P" * 20 + "0", "beyond all image")],
)
def test_damaged_strings(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack_counts(text)


def test_run_lengths_of_another_size() -> None:
    with pytest.raises(ValueError, match="covers 7 pixels, an image of 2x3 has 6"):
        PixelRuns.from_counts([3, 4], 2, 3)
    with pytest.raises(ValueError, match="length -1"):
        PixelRuns.from_counts([7, -1], 2, 3)


def test_crossing_sides() -> None:
    square = [0, 0, 4, 0, 4, 4, 0, 4]
    assert not crosses_itself(square)
    assert not crosses_itself([0, 0, 4, 0, 2, 3])
    assert not crosses_itself([*square, 0, 0]), "closed by its first point"
    assert crosses_itself([0, 0, 4, 4, 4, 0, 0, 4])
    star = [value for k in range(5) for value in (np.cos(4 * np.pi * k / 5), np.sin(4 * np.pi * k / 5))]
    assert crosses_itself(star)
    concave = [0, 0, 10, 0, 10, 10, 5, 1, 0, 10]
    assert not crosses_itself(concave)
    angle = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    disc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert not crosses_itself(disc.ravel())
    disc[[2990, 2991]] = disc[[2991, 2990]]  # found in the last block of sides
    assert crosses_itself(disc.ravel())
