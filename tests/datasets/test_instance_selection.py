"""Which images are used: by attribute, by list, by annotation file."""

from __future__ import annotations

from pathlib import Path

import pytest

from coco_sets import annotation, content, write_coco
from monai_ext.datasets.instance_open import open_instances
from monai_ext.datasets.instance_selection import (
    listed_fold,
    open_with_annotations,
    parse_select,
    restricted,
    select_images,
)
from monai_ext.errors import InputError

NAMES = ("images/train/a1.png", "images/train/a2.png", "images/val/b1.png")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", {}),
        ("type=a", {"type": ("a",)}),
        (" type = a , b ; size=3 ", {"type": ("a", "b"), "size": ("3",)}),
        ({"type": "a", "field": [3, 4]}, {"type": ("a",), "field": ("3", "4")}),
    ],
)
def test_wanted_attributes(text: object, wanted: dict[str, tuple[str, ...]]) -> None:
    assert parse_select(text) == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["type", "type=", "=a", "type=,"])
def test_a_selection_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"is not NAME=VALUE\. Cure: type=fluorescence"):
        parse_select(text)


def test_images_are_selected_by_attribute(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{n}.png", "height": 10, "width": 12, "type": "ab"[n - 1]} for n in (1, 2)]
    dataset = open_instances(write_coco(tmp_path, content(images=images)))
    assert [case.name for case in select_images(dataset, "type=b").cases] == ["images/train/2.png"]
    assert select_images(dataset, "") is dataset
    with pytest.raises(InputError, match=r"no image has type = c\. Cure: values are a, b"):
        select_images(dataset, "type=c")
    with pytest.raises(InputError, match=r"no image has kind = a\. Cure: there are type"):
        select_images(dataset, "kind=a")


def test_lists_name_images_in_several_ways(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("images/train/a2.png\n\nb1\n")
    assert restricted(NAMES, str(file), "train_list") == (NAMES[1], NAMES[2])
    assert restricted(NAMES, "a*.png", "train_list") == NAMES[:2]
    assert restricted(NAMES, "images/val/*", "train_list") == NAMES[2:]
    assert restricted(NAMES, "", "train_list") == NAMES
    file.write_text("a1.png\nc.png\n")
    with pytest.raises(InputError, match=r"--val_list .*1 of 2 lines name no image, or several, of this part: c\.png"):
        restricted(NAMES, str(file), "val_list")
    with pytest.raises(InputError, match="fits none of 3 images"):
        restricted(NAMES, "z*", "val_list")
    with pytest.raises(InputError, match="cannot be read"):
        restricted(NAMES, str(tmp_path / "none.txt"), "val_list")


def test_two_lists_are_a_split(tmp_path: Path) -> None:
    dataset = open_instances(write_coco(tmp_path))
    fold = listed_fold(dataset, "1.*", "2.*")
    assert (fold.train, fold.val) == (("images/train/1.png",), ("images/train/2.png",))
    with pytest.raises(InputError, match="1 images are in both"):
        listed_fold(dataset, "*.png", "2.*")


def test_a_part_can_have_another_annotation_file(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "a")
    write_coco(root, split="val2014")
    write_coco(root, content(annotations=[annotation(1), annotation(2, image=2)]), split="val2017")
    with pytest.raises(InputError, match="are both 'val'"):
        open_instances(root)
    chosen = open_with_annotations(str(root), "auto", (), False, "", "instances_val2017.json")
    assert [len(chosen.part(split)) for split in ("train", "val")] == [2, 2]
    assert sum(len(case.annotations) for case in chosen.part("val")) == 2
    other = write_coco(tmp_path / "b", split="extra")
    path = other / "annotations" / "instances_extra.json"
    chosen = open_with_annotations(str(root), "auto", (), False, "", str(path))
    assert [case.name for case in chosen.part("val")] == [
        (other / "images/extra" / f"{n}.png").as_posix() for n in (1, 2)
    ]
    assert chosen.part("train")[0].name == "images/train/1.png"
    with pytest.raises(InputError, match=r"are all 'val'\. Cure: keep one, or --val_annotations NAME"):
        open_with_annotations(str(root), "auto", (), False, "instances_train.json", "")
    with pytest.raises(InputError, match=r"--val_annotations missing\.json: is no file"):
        open_with_annotations(str(root), "auto", (), False, "", "missing.json")
