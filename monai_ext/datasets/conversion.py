"""Write a dataset in the format of the Medical Segmentation Decathlon from the files of another layout."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.datasets.conversion_masks import ClassValues, read_mask
from monai_ext.datasets.dataset_check import CaseReport, inspect_dataset
from monai_ext.datasets.file_names import image_ending
from monai_ext.datasets.image_files import geometry_difference, read_image, write_label_map, write_probabilities
from monai_ext.datasets.itk_files import TIFF_ENDINGS, has_alpha, read_with_itk
from monai_ext.datasets.msd import read_msd
from monai_ext.datasets.png_labels import write_png_labels
from monai_ext.datasets.segmentation_dataset import Case, SegmentationDataset
from monai_ext.errors import InputError, Problems

DETACHED_ENDINGS = (".nhdr", ".mhd")  # headers whose voxels lie in another file
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow makes grey values of colours
COLOURS = {"": 0, "grey": 1, "rgb": 3}


@dataclass(frozen=True)
class ConversionPlan:
    """What a source holds and what becomes of it; nothing is written yet.

    Attributes:
        layout: name of the source's layout.
        channels: names of the channels.
        labels: class name to value, consecutive from 0.
        cases: with their source files; those without label become test cases.
        spatial_dims: 2 or 3.
        values: how stored label values become classes; None takes label files as they are.
        colour: `rgb` or `grey` turns every picture into one kind, empty keeps them.
        tables: text of further files by name.
        about: entries for `dataset.json`.
        notes: what a person should know; printed.
    """

    layout: str
    channels: tuple[str, ...]
    labels: dict[str, int]
    cases: tuple[Case, ...]
    spatial_dims: int
    values: ClassValues | None = None
    colour: str = ""
    tables: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def require_free_target(source: Path, target: Path) -> None:
    """Require that a conversion can neither replace nor touch anything.

    Raises:
        InputError: the source is no folder, the target exists, or lies inside the source.
    """
    if not source.is_dir():
        raise InputError(f"{source}: is not a folder. Cure: give the folder of the dataset")
    if target.exists() or target.is_symlink():
        raise InputError(f"{target}: exists already. Cure: give a new folder, or remove this one")
    if target.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{target}: lies in the source, which is never changed. Cure: give a folder outside {source}")


def write_dataset(
    plan: ConversionPlan, target: Path, num_workers: int = 0, progress: bool = False
) -> tuple[SegmentationDataset, list[CaseReport], list[str]]:
    """Write and check a dataset; it appears under its name only when it is complete and passes the check.

    Single files are hard-linked where the file system allows, else copied; several channel files become one 4D file.

    Args:
        plan: from one of the layouts.
        target: folder that does not exist.
        num_workers: processes of the check.
        progress: show bars.

    Returns:
        The dataset, what the check found in each case, and its warnings.

    Raises:
        InputError: files cannot be used; every problem is listed.
    """
    if target.exists():
        raise InputError(f"{target}: exists already. Cure: give a new folder, or remove this one")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{secrets.token_hex(4)}-{target.name}"
    try:
        for part in ("imagesTr", "labelsTr", "imagesTs"):
            (partial / part).mkdir(parents=True)
        _write_cases(plan, partial, target.name, progress)
        try:
            dataset = read_msd(partial)
            reports, warnings = inspect_dataset(dataset, num_workers, progress, mixed_sizes=True)
        except InputError as error:
            raise InputError(str(error).replace(str(partial), f"{target} (not written)")) from None
        if not any((partial / "imagesTs").iterdir()):
            (partial / "imagesTs").rmdir()
        os.rename(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return read_msd(target), reports, warnings


def _write_cases(plan: ConversionPlan, folder: Path, name: str, progress: bool) -> None:
    problems = Problems(f"conversion to {name}")
    training, test = [], []
    for case in _with_bar(plan.cases, progress):
        try:
            image = _write_image(case, folder / ("imagesTs" if case.label is None else "imagesTr"), plan)
            if case.label is None:
                test.append(f"./{image.relative_to(folder).as_posix()}")
                continue
            label = _write_label(case, folder / "labelsTr", plan)
        except InputError as error:
            first, *rest = str(error).split("\n")
            problems.lines += [f"{case.name}: {line.removeprefix('  - ')}" for line in rest or [first]]
            continue
        parts = {"image": image, "label": label}
        training.append({key: f"./{path.relative_to(folder).as_posix()}" for key, path in parts.items()})
    problems.raise_if_any()
    size = "2D" if plan.spatial_dims == 2 else "3D" if len(plan.channels) == 1 else "4D"
    description = {
        "name": name,
        **plan.about,
        "tensorImageSize": size,
        "modality": {str(i): channel for i, channel in enumerate(plan.channels)},
        "labels": {str(value): label for label, value in plan.labels.items()},
        "numTraining": len(training),
        "numTest": len(test),
        "training": training,
        "test": test,
        "converted_from": {"layout": plan.layout} | (plan.values.to_dict() if plan.values else {}),
    }
    for file_name, text in plan.tables.items():
        (folder / file_name).write_text(text, encoding="utf-8", newline="\n")
    text = json.dumps(description, indent=1, ensure_ascii=False) + "\n"
    (folder / "dataset.json").write_text(text, encoding="utf-8", newline="\n")


def _write_image(case: Case, folder: Path, plan: ConversionPlan) -> Path:
    first = case.images[0]
    ending = image_ending(first)
    if len(case.images) > 1 or ending in DETACHED_ENDINGS:
        image, geometry = read_image(case.images)
        path = folder / f"{case.name}.nii.gz"
        write_probabilities(path, image, geometry)
        return path
    wanted = COLOURS[plan.colour]
    known = bool(ending) and not (ending == ".png" and has_alpha(first))
    if known and not wanted:
        return link_or_copy(first, folder / f"{case.name}{ending}")
    image, geometry = _read_any(first)
    if known and image.shape[0] == wanted:
        return link_or_copy(first, folder / f"{case.name}{ending}")
    whole = bool((image == np.rint(image)).all())
    if wanted == 1 and image.shape[0] == 3:
        image = np.tensordot(np.array(LUMA, np.float32), image, axes=1)[None]
        image = np.rint(image) if whole else image
    elif wanted == 3 and image.shape[0] == 1:
        image = np.repeat(image, 3, axis=0)
    elif wanted not in (0, image.shape[0]):
        raise InputError(
            f"{first}: has {image.shape[0]} channels, --colour {plan.colour} takes 1 or 3. Cure: leave --colour away"
        )
    # PNG holds one size of pixel, 8 bits a colour and 16 bits a grey value
    fits = image.shape[0] in (1, 3) and image.min() >= 0 and image.max() < (256 if image.shape[0] == 3 else 2**16)
    if whole and fits and len(geometry.file_shape) == 2 and geometry.spacing == (1.0, 1.0, 1.0):
        path = folder / f"{case.name}.png"
        _write_png(path, geometry.to_file(np.moveaxis(image, 0, -1)))
    else:
        path = folder / f"{case.name}.nii.gz"
        write_probabilities(path, image, geometry)
    return path


def _read_any(path: Path) -> tuple[np.ndarray, Any]:
    """As `read_image`, also for pictures whose ending datasets may not have."""
    if image_ending(path):
        return read_image([path])
    try:
        stored, geometry = read_with_itk(path)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read ({error}). Cure: copy it again, or remove the case") from None
    stored = stored.reshape(*geometry.file_shape, -1)
    return np.moveaxis(geometry.to_canonical(stored), -1, 0).astype(np.float32), geometry


def _write_png(path: Path, stored: np.ndarray) -> None:
    """Write `[x, y, C]` with one or three channels."""
    from PIL import Image

    pixels = np.swapaxes(stored if stored.shape[-1] == 3 else stored[..., 0], 0, 1)
    Image.fromarray(np.ascontiguousarray(pixels, np.uint8 if pixels.max() < 256 else np.uint16)).save(path)


def _write_label(case: Case, folder: Path, plan: ConversionPlan) -> Path:
    assert case.label is not None
    ending = image_ending(case.label)
    if plan.values is None and ending not in DETACHED_ENDINGS and ending:
        return link_or_copy(case.label, folder / f"{case.name}{ending}")
    labels, geometry = read_mask(case.label)
    unchanged = False
    if plan.values is not None:
        classes = plan.values.apply(labels)
        unchanged = bool((classes == labels).all()) and not plan.values.is_colour(case.label)
        labels = classes
    flat_image = len(case.images) == 1 and case.images[0].suffix.lower() in TIFF_ENDINGS
    if flat_image and len(geometry.file_shape) == 2:  # a resolution in the image's header is seldom in the mask's too
        _, image_geometry = read_image(case.images)
        if image_geometry.shape == geometry.shape and geometry_difference(image_geometry, geometry):
            geometry, unchanged = image_geometry, False
    if unchanged and ending and ending not in DETACHED_ENDINGS:
        return link_or_copy(case.label, folder / f"{case.name}{ending}")
    if len(geometry.file_shape) == 2 and geometry.spacing == (1.0, 1.0, 1.0):
        path = folder / f"{case.name}.png"
        write_png_labels(path, labels, geometry)
    else:
        path = folder / f"{case.name}.nii.gz"
        write_label_map(path, labels, geometry)
    return path


def link_or_copy(source: Path, target: Path) -> Path:
    """Hard link to a file, a copy where file systems or rights forbid it.

    Raises:
        InputError: the file is a link to content that is not here.
    """
    if not source.exists():
        raise InputError(f"{source}: points to content that is not here. Cure: fetch it, for instance with datalad get")
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
    return target


def _with_bar(cases: tuple[Case, ...], progress: bool) -> Any:
    if not progress:
        return cases
    from tqdm import tqdm

    return tqdm(cases, desc="converting", unit="case")
