"""A small made-up set of pictures for classification: stripes, checks, discs and squares."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from monai_ext.atomic_files import replacing
from monai_ext.errors import InputError

MARK = ".phantom-"
VERSION = 1  # a changed phantom gets a new number, so that old folders are made anew
CLASSES = ("checks", "discs", "squares", "stripes")
LEAST_CONTRAST = 70  # between the two colours of a picture, grey values


def make_class_phantom(folder: str | Path, num_train: int = 60, num_val: int = 20, seed: int = 0) -> Path:
    """Write a phantom as `train/CLASS/*.png` and `val/CLASS/*.png`; a second call finds it done.

    RGB pictures of 76 to 96 pixels a side. Both colours, angle, scale, position and number of shapes, a gradient of
    light, blur and noise are random, and either colour may be the lighter one: neither mean colour nor contrast tells
    the class. A picture depends on `seed`, its class and its number only. Another phantom in the folder is replaced.

    Args:
        folder: made if it does not exist.
        num_train, num_val: pictures per class.
        seed: of everything random.

    Raises:
        InputError: the folder holds something that is no phantom, or cannot be written to.
    """
    folder = Path(folder)
    mark = folder / f"{MARK}{VERSION}-{num_train}-{num_val}-{seed}"
    if min(num_train, num_val) < 1:
        raise InputError(f"phantom: {num_train} and {num_val} pictures per class, at least 1 each. Cure: 60 and 20")
    if mark.exists() and _count(folder) == len(CLASSES) * (num_train + num_val):
        return folder
    if folder.is_dir() and any(folder.iterdir()) and not any(folder.glob(f"{MARK}*")):
        raise InputError(f"{folder}: holds files that are no phantom. Cure: another folder for the phantom")
    unfinished = folder / f"{MARK}unfinished"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}). Cure: a writable folder") from error
    for old in folder.glob(f"{MARK}*"):
        if old not in (unfinished, mark):
            old.unlink(missing_ok=True)
    for split, first, count in (("train", 0, num_train), ("val", num_train, num_val)):
        for kind in CLASSES:
            _write_class(folder / split / kind, kind, range(first, first + count), seed)
    mark.touch()
    unfinished.unlink(missing_ok=True)  # another process may have finished it first
    return folder


def draw_picture(kind: str, seed: int, index: int) -> np.ndarray:
    """One picture `[H, W, 3]` uint8 of a class."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng((seed, CLASSES.index(kind), index))
    height, width = (int(n) for n in rng.integers(76, 97, 2))
    rows, columns = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    draw = _texture if kind in ("stripes", "checks") else _shapes
    pattern = draw(kind, rows, columns, rng)
    pattern = gaussian_filter(pattern.astype(np.float64), rng.uniform(0.2, 0.6))[..., None]
    if rng.random() < 0.5:
        pattern = 1 - pattern
    back, front = _two_colours(rng)
    image = back + pattern * (front - back)
    slope = rng.uniform(-0.25, 0.25, 2)  # light from one side
    image = image * (1 + slope[0] * (rows / height - 0.5) + slope[1] * (columns / width - 0.5))[..., None]
    image = image + rng.normal(0, rng.uniform(3, 8), image.shape)
    return np.clip(image, 0, 255).round().astype(np.uint8)


def _texture(kind: str, rows: np.ndarray, columns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Parallel bands, or the checks that two crossing sets of bands make."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(9, 16)
    along = np.cos(angle) * columns + np.sin(angle) * rows + rng.uniform(0, period)
    across = -np.sin(angle) * columns + np.cos(angle) * rows + rng.uniform(0, period)
    bands = (along % period) < period * (0.5 if kind == "checks" else rng.uniform(0.35, 0.65))
    return bands if kind == "stripes" else bands ^ ((across % period) < period / 2)


def _shapes(kind: str, rows: np.ndarray, columns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Discs or slightly turned squares of equal mean area that do not touch each other."""
    shape = np.array(rows.shape, dtype=np.float64)
    pattern, placed = np.zeros(rows.shape, dtype=bool), list[tuple[np.ndarray, float]]()
    wanted = int(rng.integers(3, 6))
    for _ in range(40):
        if len(placed) == wanted:
            break
        radius = rng.uniform(11, 15)  # of the disc; the square has its area
        reach = radius * (1.0 if kind == "discs" else np.sqrt(np.pi / 2))
        centre = rng.uniform(reach, shape - reach)
        angle = rng.uniform(-0.25, 0.25)
        if any(np.linalg.norm(centre - other) < reach + size + 2 for other, size in placed):
            continue
        placed.append((centre, reach))
        y, x = rows - centre[0], columns - centre[1]
        if kind == "discs":
            pattern |= x * x + y * y <= radius * radius
        else:
            u, v = np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y
            pattern |= np.maximum(np.abs(u), np.abs(v)) <= radius * np.sqrt(np.pi) / 2
    return pattern


def _two_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two tinted greys that differ enough to be seen."""
    while True:
        greys = rng.uniform(45, 210, 2)
        if abs(greys[0] - greys[1]) >= LEAST_CONTRAST:
            tints = rng.uniform(-30, 30, (2, 3))
            return greys[0] + tints[0], greys[1] + tints[1]


def _write_class(folder: Path, kind: str, numbers: range, seed: int) -> None:
    from PIL import Image

    shutil.rmtree(folder, ignore_errors=True)
    for index in numbers:
        with replacing(folder / f"{kind}_{index:03d}.png") as partial:
            Image.fromarray(draw_picture(kind, seed, index)).save(partial)


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.glob("*/*/*.png"))
