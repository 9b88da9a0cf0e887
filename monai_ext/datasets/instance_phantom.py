"""A small made-up set of pictures for instance segmentation, in COCO's layout: discs and blobs, some of which touch."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.atomic_files import replacing, write_text
from monai_ext.datasets.coco_masks import PixelRuns
from monai_ext.datasets.phantom_folder import is_finished, writing_phantom
from monai_ext.errors import InputError

VERSION = 1  # a changed phantom gets a new number, so that old folders are made anew
CLASSES = ("disc", "blob")
FEWEST, MOST = 3, 12  # objects of a picture
OUTLINE_POINTS = 48
LARGEST_RADIUS = 12.0
SMALLEST_SIZE = 64  # pixels: below, too few objects find room
TOUCHING_SHARE = 0.35
MOST_HIDDEN = 0.08  # share of an object that lies under earlier ones and is cut off


@dataclass(frozen=True, eq=False)
class PhantomObject:
    """One object of a picture.

    Attributes:
        label: 1 disc, 2 blob.
        polygon: outline (x0, y0, x1, y1, ...) in pixels; None where a neighbour cuts it off.
        runs: its pixels.
    """

    label: int
    polygon: np.ndarray | None
    runs: PixelRuns


def make_instance_phantom(
    folder: str | Path, num_train: int = 40, num_val: int = 12, size: int = 96, seed: int = 0
) -> Path:
    """Write a phantom as `images/SPLIT/*.png` and `annotations/instances_SPLIT.json`; a second call finds it done.

    Grey pictures of about `size` pixels a side, 3 to 12 objects each, the last training picture without any. Masks are
    polygons, packed and unpacked run lengths in turn. A picture depends on `size`, `seed` and its number only. Another
    phantom in the folder is replaced.

    Args:
        folder: made if it does not exist.
        num_train, num_val: pictures.
        size: pixels, at least 64.
        seed: of everything random.

    Raises:
        InputError: the folder holds something that is no phantom, or cannot be written to; a number is too small.
    """
    folder = Path(folder)
    if num_train < 2 or num_val < 1 or size < SMALLEST_SIZE:
        raise InputError(
            f"phantom: {num_train} and {num_val} pictures of {size} pixels. "
            f"Cure: at least 2 and 1 of {SMALLEST_SIZE} pixels, such as 40 and 12 of 96"
        )
    name = f"{VERSION}-{num_train}-{num_val}-{size}-{seed}"
    if is_finished(folder, name) and _is_complete(folder, num_train + num_val):
        return folder
    with writing_phantom(folder, name):
        _write_split(folder, "train", range(num_train), size, seed, empty=num_train - 1)
        _write_split(folder, "val", range(num_train, num_train + num_val), size, seed)
    return folder


def draw_scene(seed: int, index: int, size: int = 96, empty: bool = False) -> tuple[np.ndarray, list[PhantomObject]]:
    """One picture `[H, W]` uint8 and its objects, which do not overlap.

    Discs are smooth, blobs have lobes and grain; both darken towards their edge, so that touching ones can be told
    apart. Brightness does not tell the class.
    """
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng((seed, index, size))
    height, width = (int(n) for n in rng.integers(round(0.9 * size), round(1.1 * size) + 1, 2))
    image = rng.uniform(25, 50) + 6 * _smooth(rng, height, width, 12)
    objects = [] if empty else _place(rng, height, width)
    for one in objects:
        inside = one.runs.mask()
        shade = _depth(inside)
        grain = 1 + 0.22 * _smooth(rng, height, width, 1.0) if CLASSES[one.label - 1] == "blob" else 1.0
        body = rng.uniform(110, 190) * (0.55 + 0.45 * shade) * grain
        image = np.where(inside, np.maximum(body, 70), image)
    image = gaussian_filter(image, 0.5) + rng.normal(0, rng.uniform(3, 7), image.shape)
    return np.clip(image, 0, 255).round().astype(np.uint8), objects


def _place(rng: np.random.Generator, height: int, width: int) -> list[PhantomObject]:
    """Objects one after the other, some pushed against an earlier one."""
    taken = np.zeros((height, width), dtype=bool)
    objects: list[PhantomObject] = []
    placed: list[tuple[np.ndarray, float]] = []
    wanted = int(rng.integers(FEWEST, MOST + 1))
    for _ in range(60 * MOST):
        if len(objects) == wanted:
            break
        label = int(rng.integers(1, 3))
        radius = rng.uniform(4.5, 10) if label == 1 else rng.uniform(7, LARGEST_RADIUS)
        centre = rng.uniform((0.6 * radius, 0.6 * radius), (width - 0.6 * radius, height - 0.6 * radius))
        if placed and rng.random() < TOUCHING_SHARE:
            other, reach = placed[int(rng.integers(len(placed)))]
            angle = rng.uniform(0, 2 * np.pi)
            centre = other + (reach + radius) * np.array([np.cos(angle), np.sin(angle)])
            if (centre < 0.6 * radius).any() or (centre > np.array([width, height]) - 0.6 * radius).any():
                continue
        outline = _outline(rng, label, radius, centre).clip(0, (width, height))
        polygon = outline.ravel().round(2)
        runs = PixelRuns.from_polygons([polygon], height, width)
        inside = runs.mask()
        hidden = int((inside & taken).sum())
        if hidden > MOST_HIDDEN * runs.area:
            continue
        cut = PixelRuns.from_mask(inside & ~taken) if hidden else runs
        objects.append(PhantomObject(label, None if hidden else polygon, cut))
        placed.append((centre, radius))
        taken |= inside
    return objects


def _outline(rng: np.random.Generator, label: int, radius: float, centre: np.ndarray) -> np.ndarray:
    """Points `[P, 2]` (x, y) of a circle, or of one with lobes."""
    angle = np.linspace(0, 2 * np.pi, OUTLINE_POINTS, endpoint=False)
    distance = np.full(OUTLINE_POINTS, radius)
    if CLASSES[label - 1] == "blob":
        lobes, turn = int(rng.integers(3, 5)), rng.uniform(0, 2 * np.pi)
        distance = radius * (1 + rng.uniform(0.2, 0.3) * np.cos(lobes * angle + turn)) / 1.1
    return centre + distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _depth(inside: np.ndarray) -> np.ndarray:
    """0 at the edge to 1 in the middle of an object; the border of the picture is no edge."""
    from scipy.ndimage import distance_transform_edt

    distance = distance_transform_edt(inside)
    return np.sqrt(distance / max(1.0, distance.max()))


def _smooth(rng: np.random.Generator, height: int, width: int, sigma: float) -> np.ndarray:
    """Smooth noise of unit variance."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.standard_normal((height, width)), sigma, mode="wrap")
    return noise / noise.std()


def _write_split(folder: Path, split: str, numbers: range, size: int, seed: int, empty: int = -1) -> None:
    from PIL import Image

    shutil.rmtree(folder / "images" / split, ignore_errors=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in numbers:
        image, objects = draw_scene(seed, index, size, empty=index == empty)
        name = f"{index:03d}.png"
        with replacing(folder / "images" / split / name) as partial:
            Image.fromarray(image).save(partial)
        height, width = image.shape
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        annotations += [_record(one, index + 1, len(annotations) + place) for place, one in enumerate(objects, 1)]
    categories = [{"id": label, "name": name} for label, name in enumerate(CLASSES, 1)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    write_text(folder / "annotations" / f"instances_{split}.json", json.dumps(content) + "\n")


def _record(one: PhantomObject, image_id: int, number: int) -> dict[str, Any]:
    """Annotation; every third mask a polygon where it can be one, the others run lengths, packed or not in turn."""
    segmentation: Any = one.runs.to_coco()
    if number % 3 == 0 and one.polygon is not None:
        segmentation = [one.polygon.tolist()]
    elif number % 3 == 1:
        segmentation = {"size": segmentation["size"], "counts": one.runs.counts().tolist()}
    x0, y0, x1, y1 = one.runs.box()
    return {
        "id": number,
        "image_id": image_id,
        "category_id": one.label,
        "segmentation": segmentation,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": one.runs.area,
        "iscrowd": 0,
    }


def _is_complete(folder: Path, pictures: int) -> bool:
    lists = [folder / "annotations" / f"instances_{split}.json" for split in ("train", "val")]
    return all(path.is_file() for path in lists) and sum(1 for _ in folder.glob("images/*/*.png")) == pictures
