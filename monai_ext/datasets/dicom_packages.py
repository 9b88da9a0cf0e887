"""The packages of the extra `dicom`, or an error that says how to get them."""

from __future__ import annotations

import importlib
from typing import Any

from monai_ext.errors import InputError


def dicom_package(name: str) -> Any:
    """Import `pydicom`, `highdicom` or a module of them.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"DICOM segmentations need {name.partition('.')[0]}, which is not installed ({error}). "
            "Cure: pip install 'monai-ext[dicom]' or pip install highdicom; --pred_format nii needs neither"
        ) from error
