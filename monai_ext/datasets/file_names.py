"""Names of image files: endings that can be read, case names, channel numbers, DICOM recognition."""

from __future__ import annotations

import re
from pathlib import Path

NIFTI_ENDINGS = (".nii.gz", ".nii")
ITK_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd", ".tiff", ".tif", ".png", ".jpg", ".jpeg", ".bmp")
IMAGE_ENDINGS = NIFTI_ENDINGS + ITK_ENDINGS
CHANNEL_NUMBER = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def image_ending(path: Path) -> str:
    """Ending of an image file as listed in `IMAGE_ENDINGS` (lower case); empty for any other file."""
    name = path.name.lower()
    return next((ending for ending in IMAGE_ENDINGS if name.endswith(ending)), "")


def is_hidden(path: Path) -> bool:
    """Hidden files, among them the `._name` companions that macOS leaves on foreign disks."""
    return path.name.startswith(".")


def name_without_ending(path: Path) -> str:
    """File name without its image ending: `a/brain_01.nii.gz` -> `brain_01`."""
    ending = image_ending(path)
    return path.name[: len(path.name) - len(ending)] if ending else path.name


def split_channel(name: str) -> tuple[str, int | None]:
    """Split the channel number of nnU-Net's naming off: `brain_01_0002` -> `("brain_01", 2)`, else `(name, None)`."""
    match = CHANNEL_NUMBER.match(name)
    return (match["case"], int(match["channel"])) if match else (name, None)


def is_dicom(path: Path) -> bool:
    """True if the file carries the DICOM mark `DICM` at byte 128, or is named `.dcm`."""
    if not path.is_file() or is_hidden(path) or path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() == ".dcm":
        return True
    if image_ending(path):
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
