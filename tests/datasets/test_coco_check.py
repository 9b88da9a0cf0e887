"""Every fault of a COCO file is found, and all of them are told at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coco_sets import annotation, content, write_coco
from monai_ext.datasets.coco_check import check_records
from monai_ext.datasets.coco_dataset import read_coco
from monai_ext.errors import InputError, Problems


def faults(whole: Any, **options: Any) -> list[str]:
    problems = Problems("file")
    check_records(whole, problems, **options)
    return problems.lines


def rle(counts: Any, size: tuple[int, int] = (10, 12)) -> dict[str, Any]:
    return {"size": list(size), "counts": counts}


def test_a_good_file_has_no_fault() -> None:
    problems = Problems("file")
    records = check_records(content(), problems)
    assert not problems.lines
    assert records.notes == ()
    (only,) = records.annotations[1]
    assert (only.id, only.label, only.crowd, only.box) == (1, 1, False, (2, 1, 6, 4))
    assert 2 not in records.annotations


BROKEN = {
    "key": (annotation(7, bbox=[2, 1, 4, 3], image_id=None), "lack 'image_id': id 7"),
    "no id": ({"image_id": 1}, "lack 'id', 'category_id', 'segmentation': number 2"),
    "id": (annotation("a"), "id that is no whole number: 'a'"),
    "twice": (annotation(1), "have the id of another: id 1"),
    "image": (annotation(7, image=99), r"image that does not exist: id 7 \(image 99\)"),
    "category": (annotation(7, category=3), r"category that does not exist: id 7 \(category 3\)"),
    "crowd": (annotation(7, iscrowd=2), r"iscrowd other than 0 and 1: id 7 \(2\)"),
    "box form": (annotation(7, bbox=[1, 2, 3]), r"bbox that is not \[x, y, width, height\]: id 7"),
    "box NaN": (annotation(7, bbox=[1, 2, 3, float("nan")]), r"bbox that is not"),
    "box area": (annotation(7, bbox=[2, 1, 0, 3]), r"box without area: id 7 \(0 x 3\)"),
    "box outside": (annotation(7, bbox=[8, 1, 6, 3]), r"outside the image: id 7 \(x 8 to 14, y 1 to 4 of 12 x 10\)"),
    "box left": (annotation(7, bbox=[-3, 1, 6, 3]), r"outside the image: id 7 \(x -3 to 3"),
    "box huge": (annotation(7, bbox=[1, 2, 3, 10**400]), r"bbox that is not"),
    "no mask": (annotation(7, segmentation=[]), "have no mask: id 7"),
    "mask form": (annotation(7, segmentation=[1, 2, 3]), "neither polygons"),
    "mask text": (annotation(7, segmentation=[["a"] * 6]), "neither polygons"),
    "odd": (annotation(7, segmentation=[[1, 2, 3, 4, 5]]), "odd number of values or fewer than 3 points: id 7"),
    "two points": (annotation(7, segmentation=[[1, 2, 3, 4]]), "fewer than 3 points: id 7"),
    "line": (annotation(7, segmentation=[[1, 1, 5, 5, 9, 9]]), "polygon without area: id 7"),
    "point": (annotation(7, segmentation=[[3, 3, 3, 3, 3, 3]]), "polygon without area: id 7"),
    "outside": (annotation(7, segmentation=[[20, 1, 25, 1, 25, 4]]), "covers no pixel of the image: id 7"),
    "far": (annotation(7, segmentation=[[2e9, 1, 1e9, 1, 1, 4]]), "covers no pixel of the image: id 7"),
    "between": (annotation(7, segmentation=[[1.6, 1, 1.9, 1, 1.9, 4, 1.6, 4]]), "covers no pixel of the image: id 7"),
    "rle size": (
        annotation(7, segmentation=rle([0, 100], (10, 10))),
        r"another size than the image: id 7 \(\[10, 10\]",
    ),
    "rle turned": (annotation(7, segmentation=rle([0, 120], (12, 10))), r"\(\[12, 10\], image \[10, 12\]\)"),
    "rle sum": (annotation(7, segmentation=rle([0, 100])), r"damaged run lengths: id 7 \(covers 100 pixels"),
    "rle sign": (
        annotation(7, segmentation=rle([0, 130, -10])),
        r"damaged run lengths: id 7 \(holds a run of length -10",
    ),
    "rle huge": (annotation(7, segmentation=rle([0, 2**70])), "damaged run lengths: id 7"),
    "rle text": (annotation(7, segmentation=rle("1 ")), r"damaged run lengths: id 7 \(holds characters"),
    "rle none": (annotation(7, segmentation={"size": [10, 12]}), "neither numbers nor a string: id 7"),
    "rle empty": (annotation(7, segmentation=rle([120])), "have an empty mask: id 7"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_annotations_are_refused_or_left_out(name: str) -> None:
    record, message = BROKEN[name]
    whole = content(annotations=[annotation(1), record])
    (line,) = faults(whole)
    assert re.search(message, line)
    assert line.startswith("1 annotations: ")
    problems = Problems("file")
    records = check_records(whole, problems, skip_broken=True)
    assert not problems.lines
    assert [found.id for found in records.annotations[1]] == [1]
    assert records.notes == (f"left out: {line.split('. Cure')[0].replace('annotations: ', 'annotations ')}",)


def test_many_of_a_kind_make_one_line() -> None:
    whole = content(annotations=[annotation(n, image=99) for n in range(1, 31)] + [annotation(40, bbox=[2, 1, 0, 0])])
    many, one = faults(whole)
    assert many.startswith("30 annotations: name an image that does not exist: id 1 (image 99), id 2")
    assert "and 20 more. Cure: " in many
    assert one.startswith("1 annotations: have a box without area")


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        ([1], "holds a list where COCO has an object"),
        (content(images=None), "'images': is missing"),
        (content(annotations={}), "'annotations': is no list but dict"),
        (content(categories=[]), "'categories': is empty"),
        (content(categories=[{"id": 1}]), "1 categories: lack 'name': id 1"),
        (content(categories=[{"id": 1, "name": "a"}] * 2), "1 categories: have the id of another: id 1"),
        (content(categories=[{"id": n, "name": "a"} for n in (1, 2)]), "categories: several have the name a"),
        (content(images=[{"id": 1, "file_name": "1.png"}]), "1 images: lack 'height', 'width': id 1"),
        (content(images=[{"id": 1, "file_name": "1.png", "height": 0, "width": 12}]), r"have no size: id 1 \(0 x 12\)"),
        (content(images=[{"id": 1, "file_name": 3, "height": 9, "width": 12}]), "have no file_name: id 1"),
        (
            content(images=[{"id": n, "file_name": "1.png", "height": 10, "width": 12} for n in (1, 2)]),
            "have the file of another: 1.png",
        ),
        (
            content(images=[{"id": 1, "file_name": f"{n}.png", "height": 10, "width": 12} for n in (1, 2)]),
            "have the id of another: id 1",
        ),
    ],
)
def test_broken_files(whole: Any, message: str) -> None:
    assert any(re.search(message, line) for line in faults(whole))


def test_gaps_and_odd_polygons_are_stated() -> None:
    categories = [{"id": n, "name": f"c{n}"} for n in (90, 3, 1)]
    crossing = [[2, 2, 8, 8, 8, 2, 2, 8]]
    records = [
        annotation(1, category=90),
        annotation(2, category=3, segmentation=crossing, bbox=None),
        annotation(3, segmentation=[[2, 1, 6, 1, 6, 4, 2, 4], [1, 1, 2, 2, 3, 3]]),
        annotation(4, segmentation=[[8, 1, 16, 1, 16, 4, 8, 4]], bbox=[8, 1, 4, 3]),
    ]
    problems = Problems("file")
    found = check_records(content(categories=categories, annotations=records), problems)
    assert not problems.lines
    assert list(found.categories.items()) == [(1, "c1"), (3, "c3"), (90, "c90")]
    assert [one.label for one in found.annotations[1]] == [3, 2, 1, 1]
    assert found.annotations[1][1].box == found.annotations[1][1].runs(10, 12).box(), "a box that lacks is the mask's"
    assert len(found.annotations[1][2].polygons) == 1
    assert found.notes == (
        "category ids 1, 3, 90 have gaps: mapped to 1..3",
        "1 annotations have polygons that cross themselves (filled by the even-odd rule): id 2",
        "1 annotations have parts without area, which are not used: id 3",
        "1 annotations have polygons that reach out of the image and are cut off: id 4",
    )


def test_image_files_are_compared(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{n}.png", "height": 10, "width": 12} for n in range(1, 5)]
    root = write_coco(tmp_path, content(images=images))
    folder = root / "images" / "train"
    (folder / "1.png").unlink()
    Image.fromarray(np.zeros((12, 10), dtype=np.uint8)).save(folder / "2.png")
    (folder / "3.png").write_bytes(b"no picture")
    with pytest.raises(InputError) as caught:
        read_coco(root)
    text = str(caught.value)
    assert "3 problems" in text
    assert "1 images: have no file: images/train/1.png" in text
    assert "images/train/2.png (file 12x10, stated 10x12)" in text
    assert "3.png: cannot be read" in text
