"""Discs with reference and detections, for tests of instance segmentation scores and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from monai_ext.datasets.instance_dataset import InstanceCase
from monai_ext.networks.mask_rcnn.structures import Detections
from monai_ext.planning.instance_plan import InstancePlan, architecture

MASK_SIZE = 28


def plan(classes: tuple[str, ...] = ("disc",), **changes: object) -> InstancePlan:
    fields = {
        "dataset": "discs",
        "classes": classes,
        "category_ids": tuple(range(1, len(classes) + 1)),
        "channels": 1,
        "mean": (0.5,),
        "std": (0.25,),
        "image_size": (64, 64),
        "arch": "resnet-tiny",
        "anchor_sizes": ((8.0,), (16.0,), (32.0,), (64.0,), (128.0,)),
        **architecture("resnet-tiny"),
    }
    return InstancePlan(**(fields | changes))  # type: ignore[arg-type]


def disc_map(size: tuple[int, int], discs: list[tuple[int, int, int]]) -> np.ndarray:
    """`[H, W]` int32, 1 to N: discs (x, y, radius) that must not overlap."""
    y, x = np.mgrid[: size[0], : size[1]]
    labels = np.zeros(size, dtype=np.int32)
    for value, (cx, cy, radius) in enumerate(discs, 1):
        labels[(x + 0.5 - cx) ** 2 + (y + 0.5 - cy) ** 2 <= radius**2] = value
    return labels


def disc_case(folder: Path, name: str, size: tuple[int, int], discs: list[tuple[int, int, int]]) -> InstanceCase:
    """An image file and a label map file of one class."""
    labels = disc_map(size, discs)
    paths = [folder / kind / f"{name}.png" for kind in ("images", "labels")]
    for path, values in zip(paths, (np.where(labels > 0, 200, 40), labels), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.astype(np.uint8)).save(path)
    return InstanceCase(f"images/{name}.png", paths[0], "val", size, label_path=paths[1])


def disc_detections(
    discs: list[tuple[int, int, int]], scores: list[float], labels: list[int] | None = None
) -> Detections:
    """What a perfect network would give of discs (x, y, radius); `scores` must descend."""
    grid = (torch.arange(MASK_SIZE) + 0.5) / MASK_SIZE * 2 - 1
    mask = torch.sigmoid(20 * (1 - (grid[:, None] ** 2 + grid**2).sqrt()))
    edges = [(x - radius, y - radius, x + radius, y + radius) for x, y, radius in discs]
    return Detections(
        torch.tensor(edges, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores),
        torch.tensor(labels or [1] * len(discs), dtype=torch.int64),
        mask.expand(len(discs), MASK_SIZE, MASK_SIZE).contiguous(),
    )
