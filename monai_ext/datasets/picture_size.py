"""Size of a picture from its header, without decoding its pixels."""

from __future__ import annotations

import warnings
from pathlib import Path

from monai_ext.datasets.decoding_errors import DECODING_ERRORS
from monai_ext.datasets.file_picture import EXIF_ORIENTATION, SIDEWAYS, damaged
from monai_ext.errors import InputError


def picture_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels, as viewers show the picture (EXIF orientation heeded).

    Raises:
        InputError: the file does not exist, is no picture, or its header is damaged.
    """
    from PIL import Image

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: file does not exist. Cure: check the name, or restore the file")
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # meant for servers that are sent pictures
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                width, height = picture.size
                # TIFF is turned by Pillow itself; without the entry getexif would decode a whole PNG to look for one
                marked = picture.format != "TIFF" and "exif" in picture.info
                turned = marked and picture.getexif().get(EXIF_ORIENTATION, 1) in SIDEWAYS
    except DECODING_ERRORS as error:
        raise damaged(path, error) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    return (width, height) if turned else (height, width)
