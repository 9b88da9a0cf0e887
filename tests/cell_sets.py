"""A few pictures of rectangles on noise, written as COCO and as label maps, for tests of the detection bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from coco_sets import Record, annotation, write_map

SIZE = (72, 80)
PLACES = ((6, 8), (8, 44), (40, 10), (42, 50))  # y, x of the corners of objects


def write_cells(root: Path, train: int = 4, val: int = 2, coco: bool = True, maps: bool = True) -> Path:
    """`images/SPLIT/N.png`, grey, with two to four objects each, light and dark in turn.

    COCO files have the categories 3 and 7 and an attribute `type` of the images; `images.csv` holds it too.

    Args:
        root: folder.
        train, val: pictures.
        coco: write `annotations/instances_SPLIT.json`.
        maps: write `labels/SPLIT/N.png`, 16 bits.
    """
    rows, number = ["file,type"], 0
    for split, count in (("train", train), ("val", val)):
        images: list[Record] = []
        annotations: list[Record] = []
        for _ in range(count):
            number += 1
            image, labels, kind = _drawn(number)
            write_map(root / "images" / split / f"{number}.png", image)
            if maps:
                write_map(root / "labels" / split / f"{number}.png", labels)
            record = {"id": number, "file_name": f"{number}.png", "height": SIZE[0], "width": SIZE[1], "type": kind}
            images.append(record)
            for value in range(1, int(labels.max()) + 1):
                box = _box(labels == value)
                category = (3, 7)[value % 2]
                annotations.append(annotation(100 * number + value, number, category, **_outline(box)))
            rows.append(f"{number}.png,{kind}")
        if coco:
            categories = [{"id": 7, "name": "round"}, {"id": 3, "name": "square"}]
            content = {"images": images, "categories": categories, "annotations": annotations}
            path = root / "annotations" / f"instances_{split}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content), encoding="utf-8")
    if maps:
        (root / "images.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def change_coco(root: Path, split: str, **changes: Any) -> None:
    """Replace lists of an annotation file: each change is called with the list."""
    path = root / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for key, change in changes.items():
        content[key] = change(content[key])
    path.write_text(json.dumps(content), encoding="utf-8")


def _drawn(number: int) -> tuple[np.ndarray, np.ndarray, str]:
    random = np.random.default_rng(number)
    image = random.integers(20, 60, SIZE).astype(np.uint8)
    labels = np.zeros(SIZE, np.uint16)
    for value, (y, x) in enumerate(PLACES[: 2 + number % 3], start=1):
        height, width = random.integers(10, 20, 2)
        inside = np.s_[y : y + height, x : x + width]
        image[inside] += 120
        labels[inside] = value
    return image, labels, "light" if number % 2 else "dark"


def _box(inside: np.ndarray) -> tuple[int, int, int, int]:
    y, x = np.nonzero(inside)
    return int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1


def _outline(box: tuple[int, int, int, int]) -> Record:
    x0, y0, x1, y1 = box
    return {
        "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
    }
