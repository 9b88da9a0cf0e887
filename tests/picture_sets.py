"""Small classification sets for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from monai_ext.datasets.classification_dataset import ClassificationDataset, ImageCase


def write_picture(path: Path, seed: int = 0, size: tuple[int, int] = (20, 24), mode: str = "RGB") -> Path:
    """A picture of noise, (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 4), dtype=np.uint8)
    if mode == "I;16":
        Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(path)
    elif mode == "F":
        Image.fromarray(noise[..., 0].astype(np.float32) / 100).save(path)
    elif mode == "P":
        Image.fromarray(noise[..., :3]).convert("P", palette=Image.Palette.ADAPTIVE).save(path)
    else:
        channels = len(mode)
        Image.fromarray(noise[..., 0] if channels == 1 else noise[..., :channels]).save(path)
    return path


def write_folders(root: Path, counts: Mapping[str, int]) -> Path:
    """Pictures of different content in folders, such as `{"train/cat": 3}`; 0 makes an empty folder."""
    seed = 0
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            seed += 1
            write_picture(root / folder / f"{index}.png", seed)
    return root


def write_table(path: Path, text: str, files: Sequence[str] = ()) -> Path:
    """A table and the pictures it names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    for seed, name in enumerate(files):
        write_picture(path.parent / name, seed)
    return path


def made_up(labels: Sequence[Sequence[int]], classes: int, splits: Sequence[str] = ()) -> ClassificationDataset:
    """A dataset without files."""
    cases = [
        ImageCase(f"{i:04d}.png", Path(f"{i:04d}.png"), tuple(found), splits[i] if splits else "")
        for i, found in enumerate(labels)
    ]
    several = any(len(found) != 1 for found in labels)
    return ClassificationDataset(Path("."), tuple(f"c{k}" for k in range(classes)), tuple(cases), several)
