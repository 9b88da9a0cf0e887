"""A small dataset made of drawn shapes: real files in the Decathlon format, for first runs and tests."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import secrets
import shutil
from pathlib import Path

import numpy as np

from monai_ext.atomic_files import explained
from monai_ext.errors import InputError
from monai_ext.file_lock import FileLock

PHANTOM_VERSION = 1
NUM_TEST_CASES = 2
LOCK_PATIENCE = 600.0  # seconds; drawing takes a few
LABELS = {"background": 0, "ellipsoid": 1, "tube": 2}


def make_phantom(folder: Path, num_cases: int = 20, seed: int = 0) -> Path:
    """Make the phantom dataset, or do nothing if the folder already holds exactly it.

    Each volume shows a soft "body" with two ellipsoids (class 1) and a bent tube (class 2) that may touch them, a
    bright unlabelled blob, a smooth bias field and noise: intensities of the classes overlap, so that shape must be
    learnt. Shapes are 20-32 x 32-48 x 32-48 voxels (z, y, x), spacing 1.5-2.0 x 1.0 x 1.0 mm, int16. A case depends on
    `seed` and its own number only. The folder appears under its name when complete.

    Args:
        folder: dataset folder to make.
        num_cases: labelled cases, at least 2; two more cases without labels are added as test set.
        seed: of all random draws.

    Returns:
        `folder`.

    Raises:
        InputError: the folder holds something else, or fewer than two cases are asked for.
    """
    folder = Path(folder)
    if num_cases < 2:
        raise InputError(f"phantom: num_cases must be at least 2, found {num_cases}. Cure: 20")
    description = _description(num_cases, seed)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if _is_complete(folder, description):
            return folder
        raise InputError(
            f"{folder}: exists and is not the phantom with num_cases={num_cases}, seed={seed}. "
            "Cure: name another folder, or remove this one"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f".{folder.name}.lock", f"{folder}, which is being drawn,")
    lock.acquire(LOCK_PATIENCE)
    try:
        for left in folder.parent.glob(f".{folder.name}-????????"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        if not _is_complete(folder, description):
            with explained(folder):
                _draw_all(folder, description, num_cases, seed)
    finally:
        lock.path.unlink(missing_ok=True)
        lock.release()
    return folder


def _draw_all(folder: Path, description: dict[str, object], num_cases: int, seed: int) -> None:
    temporary = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
    try:
        for part in ("imagesTr", "labelsTr", "imagesTs"):
            (temporary / part).mkdir(parents=True)
        for index in range(num_cases + NUM_TEST_CASES):
            image, label, affine = draw_case(seed, index)
            part = "Tr" if index < num_cases else "Ts"
            _write(temporary / f"images{part}" / f"{case_name(index)}.nii.gz", image, affine)
            if part == "Tr":
                _write(temporary / "labelsTr" / f"{case_name(index)}.nii.gz", label, affine)
        (temporary / "dataset.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        if folder.is_dir():  # empty; not every system replaces it
            with contextlib.suppress(OSError):
                folder.rmdir()
        try:
            os.replace(temporary, folder)
        except OSError:  # another process was first; its result is the same
            if not _is_complete(folder, description):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def draw_case(seed: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one case.

    Returns:
        Image int16 `[x, y, z]`, label uint8 `[x, y, z]` and the `4 x 4` affine in mm. The axes are stored as LAS, so
        that reorientation is exercised.
    """
    rng = np.random.default_rng([seed, index])
    shape = (int(rng.integers(32, 49)), int(rng.integers(32, 49)), int(rng.integers(20, 33)))
    spacing = np.array([1.0, 1.0, round(float(rng.uniform(1.5, 2.0)), 2)])
    size = np.array(shape) * spacing
    axes = [(np.arange(n) + 0.5) * s for n, s in zip(shape, spacing, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)  # mm, voxel centres

    body = _inside_ellipsoid(grid, size / 2, size * rng.uniform(0.42, 0.48, 3), np.eye(3))
    label = np.zeros(shape, dtype=np.uint8)
    for side in (0.33, 0.67):
        centre = size * np.array([side, *rng.uniform(0.38, 0.62, 2)])
        radii = rng.uniform([5.0, 5.0, 7.0], [7.5, 7.5, 10.5])
        label[_inside_ellipsoid(grid, centre, radii, _rotation(rng))] = LABELS["ellipsoid"]
    label[_inside_tube(grid, size, rng) & (label == 0)] = LABELS["tube"]
    distractor = _inside_ellipsoid(grid, size * rng.uniform(0.25, 0.75, 3), rng.uniform(2.5, 4.0, 3), _rotation(rng))

    gain = rng.uniform(0.8, 1.25)  # scanners differ in scale
    image = np.where(body, 300.0, 60.0)
    image[distractor] = 520.0
    image[label == LABELS["ellipsoid"]] = 460.0
    image[label == LABELS["tube"]] = 600.0
    image = _smooth(image) * _bias_field(grid / size, rng) * gain
    image += rng.normal(0.0, 30.0 * gain, shape)
    affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    affine[:3, 3] = [size[0] / 2, -size[1] / 2, -size[2] / 2]
    return np.clip(np.rint(image), 0, 4095).astype(np.int16), label, affine


def case_name(index: int) -> str:
    """File name without ending of one case, counted from 0."""
    return f"phantom_{index + 1:03d}"


def _inside_ellipsoid(grid: np.ndarray, centre: np.ndarray, radii: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    return np.square(((grid - centre) @ rotation) / radii).sum(axis=-1) <= 1.0


def _inside_tube(grid: np.ndarray, size: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tube along x: its centre line is a sine in y and a slope in z."""
    radius = rng.uniform(4.8, 6.0)
    swing, phase, slope = rng.uniform(3.0, 7.0), rng.uniform(0, 2 * np.pi), rng.uniform(-0.25, 0.25)
    start, stop = size[0] * rng.uniform(0.15, 0.25), size[0] * rng.uniform(0.75, 0.85)
    middle = size * np.array([0.5, rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.6)])
    x, y, z = grid[..., 0], grid[..., 1], grid[..., 2]
    line_y = middle[1] + swing * np.sin(2 * np.pi * x / size[0] + phase)
    line_z = middle[2] + slope * (x - middle[0])
    return (np.square(y - line_y) + np.square(z - line_z) <= radius**2) & (x >= start) & (x <= stop)


def _rotation(rng: np.random.Generator) -> np.ndarray:
    """Turn by up to 30 degrees about each axis in turn."""
    turned = np.eye(3)
    for axis, angle in enumerate(rng.uniform(-np.pi / 6, np.pi / 6, 3)):
        i, j = [a for a in range(3) if a != axis]
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        turned = turned @ step
    return turned


def _smooth(image: np.ndarray) -> np.ndarray:
    """Partial volume at the borders: weights 1-2-1 along each axis."""
    for axis in range(image.ndim):
        padded = np.pad(image, [(1, 1) if a == axis else (0, 0) for a in range(image.ndim)], mode="edge")
        n = image.shape[axis]
        before, here, after = (np.take(padded, np.arange(k, k + n), axis=axis) for k in range(3))
        image = (before + 2.0 * here + after) / 4.0
    return image


def _bias_field(position: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smooth factor around 1 (about 0.85 to 1.15) of position in 0..1 per axis."""
    waves = np.sin(np.pi * (position * rng.uniform(0.5, 1.5, 3) + rng.uniform(0, 2, 3)))
    return np.asarray(1.0 + 0.15 * waves.mean(axis=-1) * 3**0.5)


def _description(num_cases: int, seed: int) -> dict[str, object]:
    training = [case_name(i) for i in range(num_cases)]
    test = [case_name(i) for i in range(num_cases, num_cases + NUM_TEST_CASES)]
    return {
        "name": "Phantom",
        "description": f"Drawn shapes: phantom version {PHANTOM_VERSION}, num_cases {num_cases}, seed {seed}",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {str(value): name for name, value in LABELS.items()},
        "numTraining": num_cases,
        "numTest": NUM_TEST_CASES,
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in training],
        "test": [f"./imagesTs/{name}.nii.gz" for name in test],
    }


def _is_complete(folder: Path, description: dict[str, object]) -> bool:
    try:
        found = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if found != description:
        return False
    listed = [path for case in found["training"] for path in case.values()] + found["test"]
    return all((folder / path).is_file() for path in listed)


def _write(path: Path, stored: np.ndarray, affine: np.ndarray) -> None:
    import nibabel

    image = nibabel.Nifti1Image(stored, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    with path.open("wb") as file, gzip.GzipFile("", "wb", compresslevel=3, fileobj=file, mtime=0) as packed:
        image.to_stream(packed)
