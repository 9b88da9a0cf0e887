"""Label maps of 2D pictures as PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monai_ext.atomic_files import replacing
from monai_ext.datasets.file_names import image_ending
from monai_ext.datasets.geometry import Geometry
from monai_ext.errors import InputError

PICTURE_ENDINGS = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")


def is_picture(path: Path) -> bool:
    """Whether a file is of a format for pictures, which carries no position in the body."""
    return image_ending(path) in PICTURE_ENDINGS


def write_png_labels(path: str | Path, labels: np.ndarray, geometry: Geometry) -> None:
    """Write labels `[1, H, W]` (canonical) as grey values, pixel for pixel those of the 2D input.

    The file is 8 bit, 16 bit from label 256 on, and appears under its name only when complete.

    Raises:
        InputError: the name does not end in `.png`.
    """
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: label maps of pictures are written as PNG. Cure: use a name that ends in .png")
    if len(geometry.file_shape) != 2:
        raise ValueError(f"the input is no 2D picture, its shape is {geometry.file_shape}")
    if labels.size and (labels.min() < 0 or labels.max() >= 2**16):
        raise ValueError(f"labels must lie in 0..65535, got {labels.min()}..{labels.max()}")
    dtype = np.uint8 if not labels.size or labels.max() < 256 else np.uint16
    pixels = np.ascontiguousarray(geometry.to_file(labels.astype(dtype, copy=False)).T)  # [x, y] -> rows, columns
    with replacing(path) as partial:
        Image.fromarray(pixels).save(partial, format="PNG")
