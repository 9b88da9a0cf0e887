"""Pictures of objects."""

from __future__ import annotations

import numpy as np
import pytest

from drawn_objects import disc_map
from monai_ext.evaluation.instance_picture import (
    MISSED,
    RIGHT,
    WRONG,
    DrawnImage,
    compose_instances,
    instance_overlay,
    judged,
    outlines,
    picture_of,
)

SIZE = (60, 80)
DISCS = [(12, 12, 8), (40, 20, 9), (60, 45, 10)]


def pixels(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(-1).sum())


def test_outlines_touch_what_is_outside() -> None:
    labels = np.zeros((8, 12), dtype=np.int32)
    labels[1:7, 1:6], labels[1:7, 6:11] = 1, 2
    expected = np.zeros((8, 12), dtype=bool)
    expected[1:7, 1:11] = True
    expected[2:6, 2:5] = expected[2:6, 7:10] = False  # also a line between the two
    np.testing.assert_array_equal(outlines(labels), expected)
    thick = outlines(labels, 2)
    assert thick[labels > 0].sum() == 60 - 2 * 2  # 6 x 5 with 2 x 1 left inside, twice
    assert not thick[labels == 0].any()
    assert not outlines(np.ones((5, 5), dtype=np.int32)).any()  # the border of the image is no outline


def test_overlay() -> None:
    image = np.full((*SIZE, 3), 100, dtype=np.uint8)
    labels = disc_map(SIZE, DISCS)
    shown = instance_overlay(image, labels)
    assert (shown[labels == 0] == 100).all()
    inner = [np.unique(shown[(labels == value) & ~outlines(labels)], axis=0) for value in (1, 2, 3)]
    assert [len(colours) for colours in inner] == [1, 1, 1]
    assert len({tuple(colours[0]) for colours in inner}) == 3
    assert (image == 100).all()
    bare = instance_overlay(image, labels, fill=0)
    assert (bare[~outlines(labels)] == 100).all()
    assert (bare[outlines(labels)] != 100).any()
    with pytest.raises(ValueError, match="as the label map"):
        instance_overlay(image[:50], labels)


def test_picture_of_any_range() -> None:
    values = np.linspace(300, 5000, 2000).reshape(1, 40, 50)
    shown = picture_of(values)
    assert shown.shape == (40, 50, 3)
    assert (shown.min(), shown.max()) == (0, 255)
    assert (shown[..., 0] == shown[..., 2]).all()
    assert picture_of(np.full((4, 3, 3), 7.0)).max() == 0
    assert np.isfinite(picture_of(np.array([[[np.nan, 1.0, 2.0]]]))).all()


def drawn(prediction: np.ndarray, **options: np.ndarray) -> DrawnImage:
    return DrawnImage(np.full((*SIZE, 3), 90, dtype=np.uint8), disc_map(SIZE, DISCS), prediction, "a name", **options)


def test_what_is_right_and_what_is_wrong() -> None:
    prediction = disc_map(SIZE, [DISCS[1], (14, 46, 7)])  # one found, one wrong
    found, right, ignored = judged(drawn(prediction))
    assert found.tolist() == [False, True, False]
    assert right.tolist() == [True, False]
    assert not ignored.any()
    crowd = np.zeros(SIZE, dtype=bool)
    crowd[35:, :30] = True
    found, right, ignored = judged(drawn(prediction, crowd=crowd))
    assert ignored.tolist() == [False, True]
    labels = {"reference_labels": np.array([1, 2, 1]), "prediction_labels": np.array([1, 1])}
    assert not judged(drawn(prediction, **labels))[0].any()  # of another class
    with pytest.raises(ValueError, match="without a reference"):
        judged(DrawnImage(np.zeros((*SIZE, 3), dtype=np.uint8), None, prediction))


def test_rows_of_images() -> None:
    prediction = disc_map(SIZE, [DISCS[1], (14, 46, 7)])
    both = compose_instances([drawn(prediction), drawn(disc_map(SIZE, DISCS))], "title")
    one = compose_instances([drawn(prediction)])
    assert both.dtype == np.uint8
    assert both.shape[1] == one.shape[1] > 3 * 340
    assert both.shape[0] > 2 * 255
    # without title and words, by the panels: image, reference and prediction side by side
    width = one.shape[1] // 3
    panels = [one[60:, k * width : (k + 1) * width] for k in range(3)]
    assert [pixels(panels[0], colour) for colour in (RIGHT, MISSED, WRONG)] == [0, 0, 0]
    assert pixels(panels[1], RIGHT) > 100
    assert pixels(panels[1], MISSED) > 200
    assert not pixels(panels[1], WRONG)
    assert pixels(panels[2], RIGHT) > 100
    assert pixels(panels[2], WRONG) > 100
    assert not pixels(panels[2], MISSED)
    with pytest.raises(ValueError, match="at least one"):
        compose_instances([])


def test_without_reference_and_very_small_or_flat_images() -> None:
    image = np.full((*SIZE, 3), 90, dtype=np.uint8)
    plain = compose_instances([DrawnImage(image, None, disc_map(SIZE, DISCS))])
    assert pixels(plain, RIGHT) == pixels(plain, WRONG) == 0
    assert plain.shape[1] < 3 * 340
    tiny = np.ones((1, 3), dtype=np.int32)
    assert compose_instances([DrawnImage(image[:1, :3], tiny, tiny)], panel=100).shape[2] == 3
