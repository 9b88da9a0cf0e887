from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.datasets.conversion_masks import ClassValues, choose_classes, list_values, read_mask
from monai_ext.errors import InputError, Problems


def found(*values: int) -> dict[Path, tuple[int, ...]]:
    return {Path("a.png"): values}


def chosen(values: dict[Path, tuple[int, ...]], *names: str, **options: object) -> tuple[ClassValues, dict[str, int]]:
    problems = Problems("masks")
    result = choose_classes(values, names, problems, **options)  # type: ignore[arg-type]
    problems.raise_if_any()
    return result


def test_sparse_values_become_consecutive_classes_ascending() -> None:
    classes, labels = chosen({Path("a"): (0, 255), Path("b"): (0, 40, 128)})
    assert classes.classes == {0: 0, 40: 1, 128: 2, 255: 3}
    assert labels == {"background": 0, "class_1": 1, "class_2": 2, "class_3": 3}
    stored = np.array([[[255, 0, 40], [128, 40, 0]]], np.uint8)
    np.testing.assert_array_equal(classes.apply(stored), [[[3, 0, 1], [2, 1, 0]]])
    assert classes.describe(labels)[3] == "value 255 -> 3 class_3"
    assert classes.to_dict() == {"label_values": {"0": 0, "40": 1, "128": 2, "255": 3}}


def test_names_and_another_background() -> None:
    assert chosen(found(0, 255))[1] == {"background": 0, "foreground": 1}
    classes, labels = chosen(found(0, 255), "cell", "membrane", background=255)
    assert classes.classes == {255: 0, 0: 1}
    assert labels == {"cell": 0, "membrane": 1}


def test_threshold() -> None:
    classes, labels = chosen(found(0, 1, 2, 300), "background", "nucleus", above=0)
    np.testing.assert_array_equal(classes.apply(np.array([0, 1, 300])), [0, 1, 1])
    assert labels == {"background": 0, "nucleus": 1}
    assert classes.describe(labels)[1] == "value above 0 -> 1 nucleus"


def test_names_from_a_table_keep_values_that_no_mask_holds() -> None:
    classes, labels = chosen(found(0, 2), known={1: "front", 2: "back"})
    assert classes.classes == {0: 0, 1: 1, 2: 2}
    assert labels == {"background": 0, "front": 1, "back": 2}
    classes, labels = chosen(found(0, 17, 53), known={17: "left", 53: "right", 99: "never"})
    assert classes.classes == {0: 0, 17: 1, 53: 2}
    assert labels == {"background": 0, "left": 1, "right": 2}


def test_numbered_objects_are_no_classes_unless_named() -> None:
    objects = {Path("a"): tuple(range(12)), Path("b"): tuple(range(6))}
    with pytest.raises(InputError, match=r"hold 12 values .* 12, in a\).*--above 0"):
        chosen(objects)
    assert len(chosen(objects, *(f"part {i}" for i in range(12)))[1]) == 12
    assert len(chosen({Path("a"): tuple(range(12)), Path("b"): (0, 3, 11)})[1]) == 12  # gaps: classes


@pytest.mark.parametrize(
    ("values", "names", "options", "message"),
    [
        ((0,), (), {}, "hold one value only: 0"),
        (tuple(range(70)), (), {}, "hold 70 values"),
        ((0, 1, 2), ("a", "b"), {}, r"2 names are given \(a, b\), masks hold 3 values: 0, 1, 2"),
        ((0, 1), ("a", "a"), {}, "used for two values: a"),
        ((0, 1), (), {"background": 7}, "no mask holds the value 7"),
        ((0, 1), (), {"above": 1}, "no mask holds a value above 1"),
        ((0, 1), ("a", "b", "c"), {"above": 0}, "--above gives two classes, 3 names"),
    ],
)
def test_what_does_not_fit(
    values: tuple[int, ...], names: tuple[str, ...], options: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        chosen(found(*values), *names, **options)


def test_values_that_were_not_listed_are_an_error() -> None:
    with pytest.raises(ValueError, match="not there"):
        ClassValues({0: 0, 5: 1}).apply(np.array([0, 4]))


def test_colour_masks_with_equal_channels(tmp_path: Path) -> None:
    grey = np.array([[0, 255, 0], [255, 255, 0]], np.uint8)
    Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png")[0], grey[None, ::-1, ::-1])
    Image.fromarray(np.stack([grey, 255 - grey, grey], axis=2)).save(tmp_path / "b.png")
    Image.fromarray(grey).save(tmp_path / "c.jpg")
    Image.fromarray(grey).save(tmp_path / "d.png")
    problems = Problems("masks")
    values, colours = list_values([tmp_path / name for name in ("a.png", "b.png", "c.jpg", "d.png")], problems)
    assert values == {tmp_path / "a.png": (0, 255), tmp_path / "d.png": (0, 255)}
    assert colours == {tmp_path / "a.png"}
    assert len(problems) == 2
    assert "b.png: is a mask in colours (R, G, B) such as (0, 255, 0), (255, 0, 255)" in problems.lines[0]
    assert "cannot be JPEG" in problems.lines[1]
