"""Images to classify: one file or a folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from monai.utils.enums import CommonKeys

from monai_ext.datasets.classification_dataset import ImageCase, picture_files
from monai_ext.datasets.file_names import image_ending, is_dicom
from monai_ext.datasets.image_index import inspect_images
from monai_ext.engines import process_group
from monai_ext.engines.run_folder import existing
from monai_ext.errors import InputError, Problems

logger = logging.getLogger(__name__)


@process_group.one_error
def input_cases(path: str, skip_unreadable: bool = False, spatial_dims: int = 0) -> tuple[ImageCase, ...]:
    """Images of a file or of a folder and its subfolders, sorted by name; every one is opened, by one of the processes.

    Args:
        path: file or folder.
        skip_unreadable: leave out damaged images, with a warning that names them.
        spatial_dims: that the network takes; 0 accepts any.

    Raises:
        InputError: nothing there, no image, or damaged ones, all of which are named.
    """
    root = existing(path, "input")
    if root.is_file() and not (image_ending(root) or is_dicom(root)):
        raise InputError(f"{root}: is no image that can be read. Cure: PNG, JPEG, TIFF, BMP, DICOM or NIfTI")
    files = [root] if root.is_file() else list(picture_files(root))
    if not files:
        raise InputError(f"{root}: holds no image. Cure: put in PNG, JPEG, TIFF, BMP, DICOM or NIfTI files")
    base = root.parent if root.is_file() else root
    cases = [ImageCase(file.relative_to(base).as_posix(), file, ()) for file in files]
    facts, damaged = inspect_images(cases)
    for name, fact in facts.items():
        if spatial_dims and len(fact.size) != spatial_dims:
            damaged[name] = f"has {len(fact.size)} dimensions, the model was trained on {spatial_dims}"
    if damaged and (not skip_unreadable or len(damaged) == len(files)):
        problems = Problems(f"images in {root}")
        for name, reason in sorted(damaged.items()):
            problems.add(
                name,
                reason,
                "give an image as those of the training, or leave such images out with --skip_unreadable True",
            )
        problems.raise_if_any()
    if damaged:
        logger.warning("%d images cannot be read and are left out: %s", len(damaged), ", ".join(damaged))
    return tuple(case for case in cases if case.name not in damaged)


def without_label(prepare_batch: Any) -> Any:
    """The same `prepare_batch` for an engine that must not see labels."""

    def prepared(batch: Mapping[str, Any], *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        image, _ = prepare_batch({CommonKeys.IMAGE: batch[CommonKeys.IMAGE]}, *args, **kwargs)
        return image, None

    return prepared
