"""Stacks of slices as multi-page TIFF files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monai_ext.atomic_files import replacing
from monai_ext.errors import InputError


def write_stack(path: str | Path, pages: np.ndarray) -> None:
    """Write `[N, H, W]` float32, uint8 or uint16 as a TIFF of N pages, whole or not at all, deflated.

    Raises:
        InputError: the folder cannot be written to.
        ValueError: another shape or dtype.
    """
    if pages.ndim != 3 or not pages.size or pages.dtype not in (np.float32, np.uint8, np.uint16):
        raise ValueError(f"pages must be non-empty [N, H, W] float32, uint8 or uint16, got {pages.shape} {pages.dtype}")
    import itk

    path = Path(path)
    image = itk.image_from_array(np.ascontiguousarray(pages))
    try:
        with replacing(path) as partial:
            # the name of the temporary file ends as the final one does, by which ITK chooses the format
            writer = itk.TIFFImageIO.New()
            writer.SetCompressionToDeflate()
            itk.imwrite(image, str(partial), compression=True, imageio=writer)
            # a full disk that it meets at the end, ITK only prints: what cannot be read again was not written
            read = itk.array_view_from_image(itk.imread(str(partial), imageio=itk.TIFFImageIO.New()))
            whole = read.size == pages.size  # ITK gives a single page without the axis of pages
            if not whole or not np.array_equal(read.reshape(pages.shape), pages, equal_nan=pages.dtype == np.float32):
                raise OSError("what was written is not what is read again, most likely for want of space")
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{path}: cannot be written ({reason}). Cure: a writable folder with enough space") from error


def masks_name(input_path: str | Path) -> str:
    """File name of a prediction: `test-masks.tif` for `test-volume.tif`, else `<name>-masks.tif`."""
    path = Path(input_path)
    name = path.stem if path.suffix.lower() in (".tif", ".tiff") else path.name
    stem = name.removesuffix("-volume")
    return f"{stem}-masks.tif"
