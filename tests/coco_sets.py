"""Small COCO datasets for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Record = dict[str, Any]


def annotation(number: int, image: int = 1, category: int = 1, **changes: Any) -> Record:
    """A rectangle of 4 x 3 pixels at (2, 1); fields can be replaced, None removes them."""
    record: Record = {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]],
        "bbox": [2, 1, 4, 3],
        "area": 12,
        "iscrowd": 0,
    }
    return {key: value for key, value in (record | changes).items() if value is not None}


def content(**changes: Any) -> Record:
    """Two images of 10 x 12 pixels (height x width), one category, one object; lists can be replaced."""
    images = [{"id": n, "file_name": f"{n}.png", "height": 10, "width": 12, "type": "kind"} for n in (1, 2)]
    whole: Record = {
        "images": images,
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [annotation(1)],
    }
    return {key: value for key, value in (whole | changes).items() if value is not None}


def write_coco(root: Path, whole: Record | None = None, split: str = "train", size: tuple[int, int] = (10, 12)) -> Path:
    """The file, and a picture of that size for each image of it."""
    whole = content() if whole is None else whole
    folder = root / "images" / split
    folder.mkdir(parents=True, exist_ok=True)
    for record in whole.get("images", []):
        if isinstance(record, dict) and isinstance(record.get("file_name"), str):
            Image.fromarray(np.full(size, 50, dtype=np.uint8)).save(folder / record["file_name"])
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(whole), encoding="utf-8")
    return root


def write_map(path: Path, labels: np.ndarray) -> Path:
    """A label map or picture as PNG or TIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)
    return path
