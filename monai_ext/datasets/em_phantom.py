"""A small made-up EM stack: cells with dark membranes, drifting from slice to slice."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monai_ext.datasets.em_stack import LABELS, TEST, VOLUME
from monai_ext.datasets.em_writing import write_stack
from monai_ext.errors import InputError

MARK = ".phantom-"
VERSION = 1  # a changed phantom gets a new number, so that old folders are made anew


def make_em_phantom(folder: str | Path, num_train: int = 10, num_test: int = 3, size: int = 256, seed: int = 0) -> Path:
    """Write a phantom stack as three multi-page TIFFs; a second call finds it done.

    Cells are the regions nearest to points that drift and are bent by a smooth displacement; membranes are dark
    lines of varying width and contrast between them. Dark round bodies inside cells belong to the background, so that
    darkness alone does not tell a membrane. Deterministic in its arguments. Another phantom in the folder is replaced.

    Args:
        folder: made if it does not exist.
        num_train, num_test: pages with and without labels.
        size: pixels along both sides.
        seed: of everything random.

    Raises:
        InputError: the folder holds a stack that is no phantom, or cannot be written to.
    """
    folder = Path(folder)
    mark = folder / f"{MARK}{VERSION}-{num_train}-{num_test}-{size}-{seed}"
    there = [name for name in (VOLUME, LABELS, TEST) if (folder / name).exists()]
    if mark.exists() and len(there) == 3:
        return folder
    old = list(folder.glob(f"{MARK}*"))
    if there and not old:
        raise InputError(f"{folder}: holds {there[0]}, which is no phantom. Cure: another folder for the phantom")
    # from here on the folder is known as a phantom's, and none of the old marks tells what its files are
    unfinished = folder / f"{MARK}unfinished"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}). Cure: a writable folder") from error
    for path in old:
        if path != unfinished:
            path.unlink(missing_ok=True)
    slices = [_slice(position, size, seed) for position in range(num_train + num_test)]
    images, labels = (np.stack(arrays) for arrays in zip(*slices, strict=True))
    write_stack(folder / LABELS, labels[:num_train])
    write_stack(folder / TEST, images[num_train:])
    write_stack(folder / VOLUME, images[:num_train])
    mark.touch()
    unfinished.unlink(missing_ok=True)  # another process may have finished it first
    return folder


def _slice(position: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image `[size, size]` uint8 and label (0 membrane, 255 background) at a position along the stack."""
    from scipy.ndimage import gaussian_filter
    from scipy.spatial import cKDTree

    fixed = np.random.default_rng((seed, 0))  # what all slices share
    own = np.random.default_rng((seed, 1, position))
    cells = round(size * size / 1100)
    points = fixed.uniform(-0.15 * size, 1.15 * size, (round(cells * 1.7), 2))
    drift = fixed.normal(0, 1.5, points.shape)
    grey = fixed.normal(165, 12, len(points))
    bodies = fixed.random(len(points)) < 0.25
    bend = np.stack([gaussian_filter(fixed.standard_normal((size, size)), 18) for _ in range(2)])
    bend *= 7 / bend.std()

    rows = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij")) + bend
    moved = points + position * drift
    distance, nearest = cKDTree(moved).query(np.moveaxis(rows, 0, -1), k=2)
    # distance to the line between the two nearest points, whatever their distance from each other
    apart = np.linalg.norm(moved[nearest[..., 0]] - moved[nearest[..., 1]], axis=-1)
    to_border = (distance[..., 1] ** 2 - distance[..., 0] ** 2) / (2 * np.maximum(apart, 1))
    width = 1.7 + 0.5 * np.clip(_smooth(own, size, 12), -1.5, 1.5)
    membrane = to_border < width

    image = grey[nearest[..., 0]] + 10 * _smooth(own, size, 2)
    body = bodies[nearest[..., 0]] & (distance[..., 0] < 5 + 0.15 * apart) & ~membrane
    image = np.where(body, image - 75, image)
    depth = 95 + 15 * np.clip(_smooth(own, size, 10), -2, 2)
    image = image - depth * gaussian_filter(membrane.astype(float), 0.7)
    image = image + own.normal(0, 1, image.shape) * np.sqrt(np.clip(image, 1, 255)) * 1.3
    return np.clip(image, 0, 255).round().astype(np.uint8), np.where(membrane, 0, 255).astype(np.uint8)


def _smooth(generator: np.random.Generator, size: int, sigma: float) -> np.ndarray:
    """Smooth noise of unit variance."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(generator.standard_normal((size, size)), sigma, mode="wrap")
    return noise / noise.std()
