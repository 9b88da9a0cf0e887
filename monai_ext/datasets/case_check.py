"""Open the files of one case of a segmentation dataset, and tell what would fail, or mislead, a training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monai_ext.datasets.image_files import geometry_difference, read_image, read_label
from monai_ext.datasets.itk_files import has_alpha
from monai_ext.datasets.segmentation_dataset import Case
from monai_ext.errors import InputError


@dataclass(frozen=True)
class CaseReport:
    """What was found in one case: problems as (file, what, cure), warnings, and facts compared across cases.

    `spacing` (mm) and `shape` (voxels) are canonical (z, y, x); `values` are those of the label.
    """

    name: str
    problems: tuple[tuple[str, str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    orientation: str = ""
    spacing: tuple[float, float, float] | None = None
    shape: tuple[int, ...] = ()
    channels: int = 0
    values: tuple[int, ...] = ()


def check_case(
    case: Case, num_channels: int, labels: dict[str, int], spatial_dims: int, labelled: bool, images_2d: bool = False
) -> CaseReport:
    """Open the files of one case; nothing is raised for what a person can repair."""
    problems, warnings = list[tuple[str, str, str]](), list[str]()
    image_geometry = label_geometry = None
    image_name, channels, values = case.images[0].name, 0, np.zeros(0, np.uint8)
    try:
        image, image_geometry = read_image(case.images)
    except InputError as error:
        problems += [_as_problem(line) for line in _lines(error)]
    else:
        channels = int(image.shape[0])
        if channels != num_channels:
            what = f"file has {channels} channels, dataset.json declares {num_channels}"
            cure = "correct 'modality', or store the channels in one 4D file, channels last"
            if len(image_geometry.file_shape) == 2:
                what, cure = _picture_channels_problem(channels, num_channels)
            problems.append((image_name, what, cure))
        if spatial_dims == 2 and image.shape[1] != 1:
            what = f"is a volume of {image.shape[1]} slices, dataset.json declares 2D"
            problems.append((image_name, what, "set tensorImageSize to 3D"))
        elif images_2d and image.shape[1] != 1:
            what = f"is a volume of {image.shape[1]} slices, the training takes 2D images"
            problems.append((image_name, what, "store each slice as a file, or train on the slices of volumes"))
        if spatial_dims == 3 and not images_2d and min(image.shape[1:]) == 1:
            what = f"is a single slice (shape {image.shape[1:]}), dataset.json declares 3D"
            problems.append((image_name, what, "set tensorImageSize to 2D"))
        warnings += [f"{path.name} has an alpha channel, which is left away" for path in case.images if has_alpha(path)]
        finite = np.isfinite(image)
        if not finite.all():
            what = f"{finite.size - int(finite.sum())} of {finite.size} voxels are NaN or infinite"
            problems.append((image_name, what, "replace them, for instance by the value of air"))
        for channel, voxels in enumerate(image):
            if voxels.size and voxels.min() == voxels.max():
                which = f"channel {channel} of " if num_channels > 1 else ""
                warnings.append(f"{which}{image_name} is constant ({voxels.flat[0]:g} everywhere)")
        del image, finite
    if labelled and case.label is not None:
        try:
            label, label_geometry = read_label(case.label)
        except InputError as error:
            problems += [_as_problem(line) for line in _lines(error)]
        else:
            values, counts = np.unique(label, return_counts=True)
            allowed = set(labels.values())
            wrong = [f"{v} ({n} voxels)" for v, n in zip(values, counts, strict=True) if int(v) not in allowed]
            if wrong:
                what = f"holds values that dataset.json does not name: {', '.join(wrong[:8])}"
                known = ", ".join(f"{v} {n}" for n, v in labels.items())
                problems.append((case.label.name, what, f"correct the file, or add the class; known are {known}"))
            elif not (values != 0).any():
                warnings.append(f"{case.label.name} is all background")
    if image_geometry is not None and label_geometry is not None:
        difference = geometry_difference(image_geometry, label_geometry)
        if difference and case.label is not None:
            cure = "resample the label onto the image with nearest neighbour, or correct the wrong header"
            problems.append((case.label.name, f"differs from its image in {difference}", cure))
    return CaseReport(
        name=case.name,
        problems=tuple(problems),
        warnings=tuple(warnings),
        orientation=image_geometry.orientation if image_geometry else "",
        spacing=image_geometry.spacing if image_geometry else None,
        shape=image_geometry.shape if image_geometry else (),
        channels=channels,
        values=tuple(int(v) for v in values),
    )


def _picture_channels_problem(found: int, declared: int) -> tuple[str, str]:
    """What and cure for a picture with other channels than dataset.json declares."""
    kind = {1: "a grey picture with 1 channel", 3: "a colour picture with channels R, G, B"}
    what = f"is {kind.get(found, f'a picture with {found} channels')}, dataset.json declares {declared}"
    if found == 3 and declared == 1:
        return what, 'set "modality" to {"0": "R", "1": "G", "2": "B"}, or save the pictures as grey values'
    if found == 1 and declared == 3:
        return what, 'save it as RGB like the others, or, if all are grey, set "modality" to one channel'
    return what, "correct 'modality', or save the picture with the channels declared"


def _lines(error: InputError) -> list[str]:
    """Single problems of an error that lists several."""
    first, *rest = str(error).split("\n")
    return [line.removeprefix("  - ") for line in rest] or [first]


def _as_problem(line: str) -> tuple[str, str, str]:
    """Split `path: what. Cure: cure`; the path is shortened to the file name."""
    body, _, cure = line.partition(". Cure: ")
    path, separator, what = body.partition(": ")
    return (Path(path).name, what, cure) if separator else ("files", body, cure)
