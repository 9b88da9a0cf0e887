"""The report on objects, and what is refused once they are opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coco_sets import annotation, content, write_coco, write_map
from monai_ext.datasets.instance_check import check_instances
from monai_ext.datasets.instance_open import open_instances
from monai_ext.errors import InputError


def grid(rows: int, columns: int, edge: int = 4, gap: int = 2) -> np.ndarray:
    """Squares in rows and columns, numbered from 1."""
    labels = np.zeros((rows * (edge + gap), columns * (edge + gap)), dtype=np.uint16)
    for number in range(rows * columns):
        y, x = (edge + gap) * (number // columns), (edge + gap) * (number % columns)
        labels[y : y + edge, x : x + edge] = number + 1
    return labels


def write_maps(root: Path, maps: dict[str, np.ndarray]) -> Path:
    for name, labels in maps.items():
        write_map(root / "images" / f"{name}.png", np.zeros(labels.shape, dtype=np.uint8))
        write_map(root / "labels" / f"{name}.png", labels)
    return root


def test_report(tmp_path: Path) -> None:
    maps = {"train/a": grid(3, 4), "train/b": grid(2, 2, edge=40), "val/c": np.zeros((20, 20), dtype=np.uint8)}
    report = check_instances(open_instances(write_maps(tmp_path, maps)))
    assert report.images == {"train": 2, "val": 1}
    assert report.objects == {"train": 16, "val": 0}
    assert report.empty_images == {"train": 0, "val": 1}
    assert report.class_objects == {"object": 16}
    assert (report.per_image[0], report.per_image[3], report.per_image[-1]) == (pytest.approx(0.08), 4, 12)
    assert (report.box_edges[0], report.box_edges[-1]) == (4, 40)
    assert report.aspects == (1.0,) * 8
    assert report.size_shares == (0.75, 0.25, 0.0)
    assert report.warnings == ()
    text = report.describe()
    assert "3 images, 16 objects" in text
    assert "val: 1 images, 0 objects, 1 images without" in text
    assert "small 75.0 %, medium 25.0 %" in text


def test_more_objects_than_the_caps_are_counted(tmp_path: Path) -> None:
    maps = {"a": grid(3, 4), "b": grid(2, 4), "c": grid(1, 2)}
    dataset = open_instances(write_maps(tmp_path, maps))
    warnings = check_instances(dataset, max_objects=5, max_detections=10).warnings
    assert warnings == (
        "2 images hold more than max_objects = 5 objects, 10 in excess, most 12 in images/a.png: as many, drawn anew "
        "for each crop, are trained on",
        "1 images hold more than max_detections = 10 objects, 2 in excess, most 12 in images/a.png: as many can be "
        "found",
    )
    assert check_instances(dataset, max_objects=12).warnings == ()


def test_all_broken_label_maps_are_told_at_once(tmp_path: Path) -> None:
    root = write_maps(tmp_path, {"a": grid(1, 1), "b": grid(1, 1), "c": grid(1, 1)})
    write_map(root / "labels" / "a.png", np.zeros((5, 7), dtype=np.uint8))
    (root / "labels" / "b.png").unlink()
    write_map(root / "labels" / "b.tif", np.full((6, 6), 0.25, dtype=np.float32))
    with pytest.raises(InputError) as caught:
        check_instances(open_instances(root))
    text = str(caught.value)
    assert "2 problems" in text
    assert "a.png: label map has 5x7 pixels, its image 6x6" in text
    assert "b.tif: label values must be whole numbers, found 0.25 in 36 pixels" in text


def test_broken_label_maps_can_be_left_out(tmp_path: Path) -> None:
    root = write_maps(tmp_path, {"a": grid(1, 1), "b": grid(1, 1), "c": grid(1, 1)})
    write_map(root / "labels" / "a.png", np.zeros((5, 7), dtype=np.uint8))
    (root / "labels" / "b.png").unlink()
    dataset = open_instances(root, skip_broken=True)
    assert [case.name for case in dataset.cases] == ["images/c.png"]
    told = "\n".join(check_instances(dataset).warnings)
    assert "left out: 1 images have no label map: b" in told
    assert "left out: 1 images whose label map is broken" in told
    assert "a.png: label map has 5x7 pixels, its image 6x6" in told


def test_masks_in_place_of_label_maps_are_told(tmp_path: Path) -> None:
    masks = {name: np.where(grid(2, columns) > 0, 255, 0).astype(np.uint8) for name, columns in (("a", 2), ("b", 3))}
    (told,) = check_instances(open_instances(write_maps(tmp_path / "masks", masks))).warnings
    assert "every label map holds one object only" in told
    single = {"a": grid(1, 1), "b": grid(1, 1)}
    assert check_instances(open_instances(write_maps(tmp_path / "single", single))).warnings == ()
    mixed = masks | {"c": grid(1, 2)}
    assert check_instances(open_instances(write_maps(tmp_path / "mixed", mixed))).warnings == ()


def test_no_object(tmp_path: Path) -> None:
    nothing = np.zeros((6, 6), dtype=np.uint8)
    root = write_maps(tmp_path / "none", {"a": nothing, "b": nothing})
    with pytest.raises(InputError, match="objects: none in 2 images"):
        check_instances(open_instances(root))
    root = write_maps(tmp_path / "untrained", {"train/a": nothing, "val/b": grid(1, 2)})
    with pytest.raises(InputError, match="objects: none in the part to train on, 2 in others"):
        check_instances(open_instances(root))
    assert check_instances(open_instances(root), training=False).objects == {"train": 0, "val": 2}


def test_hidden_objects_and_classes_without_object(tmp_path: Path) -> None:
    halves = [[2, 1, 4, 1, 4, 4, 2, 4], [4, 1, 6, 1, 6, 4, 4, 4]]
    records = [annotation(1), *(annotation(n + 2, segmentation=[half], bbox=None) for n, half in enumerate(halves))]
    records.append(annotation(9, image=2, iscrowd=1))
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "debris"}]
    dataset = open_instances(write_coco(tmp_path, content(annotations=records, categories=categories)))
    report = check_instances(dataset)
    assert report.crowds == 1
    assert report.objects == {"train": 2}
    assert report.warnings == (
        "1 objects lie wholly under smaller ones and are left out: images/train/1.png 1",
        "class 'debris' has no object",
    )


@pytest.mark.real_data
def test_nuclei(data_folder: Path) -> None:
    dataset = open_instances(data_folder / "dsb2018", "label_maps")
    report = check_instances(dataset, max_objects=200)
    # figures that were published with these data
    assert report.objects == {"train": 22335, "val": 3227}
    assert report.per_image[-1] == 375
    np.testing.assert_allclose(report.size_shares, (0.907, 0.093, 0.0), atol=0.0015)
