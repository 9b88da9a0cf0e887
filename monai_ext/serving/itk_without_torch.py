"""Formats that ITK reads, without the torch that ITK loads where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from monai_ext.datasets.file_names import NIFTI_ENDINGS, image_ending


@contextmanager
def itk_without_torch(paths: Iterable[Path]) -> Iterator[None]:
    """Keep ITK from loading torch meanwhile; does nothing for NIfTI files or where torch is loaded already.

    ITK's functions take torch's tensors too, and load torch at the first call to tell them from arrays, which takes
    seconds. Here they get arrays and files only.

    Args:
        paths: that will be read or written; a folder may be a DICOM series.
    """
    if "torch" in sys.modules or all(image_ending(path) in NIFTI_ENDINGS and not path.is_dir() for path in paths):
        yield
        return
    from itk.support import helpers

    known = getattr(helpers, "_HAVE_TORCH", None)
    if known is None:  # another version of ITK: it reads all the same
        yield
        return
    helpers._HAVE_TORCH = False
    try:
        yield
    finally:
        helpers._HAVE_TORCH = known
