"""Overlay pictures: layout, orientation, outlines in class colours, slices that are shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.evaluation.overlay_picture import COLOURS, choose_slices, compose_overlay, draw_overlay

CLASSES = {"background": 0, "organ": 1, "lesion": 2}


def example(shape: tuple[int, int, int] = (12, 20, 16)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    reference = np.zeros(shape, dtype=np.uint8)
    reference[3:9, 4:16, 4:12] = 1
    prediction = reference.copy()
    reference[5:7, 8:12, 6:10] = 2
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32) + reference
    return image, reference, prediction


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == np.array(colour, dtype=np.uint8)).all(-1).sum())


def panels(picture: np.ndarray, colour: tuple[int, int, int]) -> list[int]:
    """Pixels of `colour` in each of three equally wide parts, above the legend."""
    return [count(part, colour) for part in np.array_split(picture[:-40], 3, axis=1)]


def test_outlines_are_drawn_in_the_columns_they_belong_to() -> None:
    picture = compose_overlay(*example(), CLASSES, (2.0, 1.0, 1.0))
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    organ, lesion = panels(picture, COLOURS[0]), panels(picture, COLOURS[1])
    assert organ[0] == 0
    assert min(organ[1:]) > 500
    assert lesion[0] == lesion[2] == 0  # the prediction misses the lesion
    assert lesion[1] > 200


def test_an_enclosed_class_gets_one_line() -> None:
    _, reference, prediction = example()
    image = np.zeros(reference.shape, dtype=np.float32)
    with_lesion = panels(compose_overlay(image, reference, prediction, CLASSES, (2, 1, 1)), COLOURS[0])
    assert with_lesion[1] == with_lesion[2]  # the organ draws no border around the lesion


def test_anterior_is_up_and_right_is_on_the_left() -> None:
    image = np.zeros((1, 20, 20), dtype=np.float32)
    image[0, 15:, 15:] = 1  # anterior right in canonical orientation
    labels = (image > 0).astype(np.uint8)
    picture = compose_overlay(image, labels, labels * 0, {"organ": 1}, (1, 1, 1))
    rows, columns = np.nonzero((picture[:-40] == np.array(COLOURS[0])).all(-1))
    height, width = picture.shape[:2]
    assert rows.mean() < height / 2
    assert width / 3 < columns.mean() < width / 2  # left half of the middle column


def test_slices_keep_their_proportions() -> None:
    image, reference, prediction = example((4, 10, 10))
    flat = compose_overlay(image, reference, prediction, CLASSES, (1, 1, 3), num_slices=1)
    square = compose_overlay(image, reference, prediction, CLASSES, (1, 1, 1), num_slices=1)
    assert square.shape[1] == flat.shape[1]
    assert square.shape[0] - flat.shape[0] == 240  # a panel of 360 x 360 becomes 120 x 360


def test_number_of_rows_follows_the_volume() -> None:
    image, reference, prediction = example((2, 10, 10))
    heights = [
        compose_overlay(image, reference, prediction, CLASSES, (1, 1, 1), num_slices=n).shape[0] for n in (1, 2, 9)
    ]
    assert heights[0] < heights[1] == heights[2]


def test_chosen_slices_have_most_foreground_but_are_apart() -> None:
    area = [0, 0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0]
    labels = np.zeros((len(area), 1, 6), dtype=np.uint8)
    for z, n in enumerate(area):
        labels[z, 0, :n] = 1
    assert choose_slices(labels, labels, [1], 1) == [7]
    assert choose_slices(labels, labels * 0, [1], 2) == [5, 7]  # distance 11 // 4 = 2
    assert choose_slices(labels * 0, labels, [1], 2) == [5, 7]
    assert choose_slices(labels, labels, [1], 14) == list(range(14))
    assert choose_slices(labels, labels, [3], 3) == [3, 6, 10]  # no such foreground: spread evenly
    assert choose_slices(labels, labels, [3], 20) == list(range(14))


def test_constant_and_not_finite_images_are_drawn() -> None:
    image, reference, prediction = example()
    image[:] = 7
    image[5, 5, 5] = np.nan
    image[5, 5, 6] = np.inf
    assert compose_overlay(image, reference, prediction, CLASSES, (1, 1, 1)).max() > 200


def test_many_long_class_names_wrap_and_long_titles_are_cut() -> None:
    image, reference, prediction = example()
    few = compose_overlay(image, reference, prediction, {"a": 1}, (1, 1, 1), "title")
    names = {f"a class with quite a long name {i}": i for i in range(1, 13)}
    many = compose_overlay(image, reference, prediction, names, (1, 1, 1), "title " * 100)
    assert many.shape[0] > few.shape[0]
    assert many.shape[1] == few.shape[1]


def test_png_is_written_whole_and_equals_the_composed_picture(tmp_path: Path) -> None:
    arguments = (*example(), CLASSES, (2.0, 1.0, 1.0))
    path = tmp_path / "pictures" / "case_1.png"
    draw_overlay(path, *arguments)
    assert [p.name for p in path.parent.iterdir()] == ["case_1.png"]
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert np.array_equal(np.asarray(picture), compose_overlay(*arguments, title="case_1"))


def test_bad_arguments_are_refused() -> None:
    image, reference, prediction = example()
    with pytest.raises(ValueError, match="of one shape"):
        compose_overlay(image[None], reference, prediction, CLASSES, (1, 1, 1))
    with pytest.raises(ValueError, match="num_slices"):
        compose_overlay(image, reference, prediction, CLASSES, (1, 1, 1), num_slices=0)
