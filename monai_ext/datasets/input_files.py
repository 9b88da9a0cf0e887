"""What a person wants segmented: one file, one DICOM series, or a folder of images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from monai_ext.datasets.file_names import (
    IMAGE_ENDINGS,
    image_ending,
    is_dicom,
    is_hidden,
    name_without_ending,
    split_channel,
)
from monai_ext.datasets.itk_files import picture_channels
from monai_ext.datasets.segmentation_dataset import Case
from monai_ext.errors import InputError, Problems


def find_inputs(path: Path, num_channels: int) -> list[Case]:
    """Cases to predict, sorted by name; nothing is opened but DICOM folders and headers of pictures.

    Args:
        path: an image file; a folder with one DICOM series; or a folder of image files. In the last, with
            `num_channels > 1`, files named `CASE_0000.nii.gz`, `CASE_0001.nii.gz`, ... are joined to one case each;
        colour pictures hold all channels and are a case each.
        num_channels: channels that the network expects.

    Raises:
        InputError: nothing to read, several DICOM series, channels missing, or two inputs with one output name.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: does not exist. Cure: give an image file, a DICOM folder or a folder of images")
    if path.is_file():
        return [_single_file(path, num_channels)]
    files = sorted(file for file in path.iterdir() if not is_hidden(file))
    images = [file for file in files if image_ending(file) and file.is_file()]
    if images:
        return _folder_cases(path, images, num_channels)
    if any(is_dicom(file) for file in files):
        from monai_ext.datasets.itk_files import check_one_series

        check_one_series(path)
        if num_channels != 1:
            raise InputError(
                f"{path}: a DICOM series is one channel, the network expects {num_channels}. "
                "Cure: convert the series to NIfTI files CASE_0000.nii.gz, CASE_0001.nii.gz, ..."
            )
        return [Case(path.resolve().name, (path,))]
    endings = ", ".join(IMAGE_ENDINGS)
    raise InputError(f"{path}: holds no image. Cure: put in files that end in {endings}, or DICOM files")


def _single_file(path: Path, num_channels: int) -> Case:
    if is_dicom(path):
        raise InputError(f"{path}: is one file of a DICOM series. Cure: give the folder that holds the series")
    if not image_ending(path):
        raise InputError(f"{path}: unknown image format. Cure: convert to one of {', '.join(IMAGE_ENDINGS)}")
    name, channel = split_channel(name_without_ending(path))
    if channel is None:
        return Case(name, (path,))
    if num_channels > 1 and picture_channels(path) == num_channels:
        return Case(name if channel == 0 else name_without_ending(path), (path,))
    if num_channels == 1:
        return Case(name, (path,)) if channel == 0 else Case(name_without_ending(path), (path,))
    siblings = [file for file in sorted(path.parent.iterdir()) if not is_hidden(file) and image_ending(file)]
    group = [file for file in siblings if split_channel(name_without_ending(file))[0] == name]
    return _folder_cases(path.parent, group, num_channels)[0]


def _folder_cases(folder: Path, images: list[Path], num_channels: int) -> list[Case]:
    problems = Problems(f"inputs in {folder}")
    groups: dict[str, dict[int, list[Path]]] = {}
    numbered = Counter(split_channel(name_without_ending(file))[0] for file in images)
    for file in images:
        name, channel = split_channel(name_without_ending(file))
        if channel is not None and num_channels > 1 and picture_channels(file) == num_channels:
            # a colour picture holds all channels, so the number counts pictures, unless it is the only one
            name, channel = (name if channel == 0 and numbered[name] == 1 else name_without_ending(file)), None
        if num_channels == 1 and channel not in (None, 0):  # a number that happens to look like a channel
            name, channel = name_without_ending(file), None
        groups.setdefault(name, {}).setdefault(-1 if channel is None else channel, []).append(file)
    cases = []
    for name, channels in sorted(groups.items()):
        files = [file for number in sorted(channels) for file in channels[number]]
        named = ", ".join(file.name for file in files)
        if any(len(same) > 1 for same in channels.values()) or (-1 in channels and len(channels) > 1):
            problems.add(name, f"several inputs would give the same output name: {named}", "rename or move one")
        elif -1 not in channels and sorted(channels) != list(range(num_channels)):
            wanted = ", ".join(f"{name}_{i:04d}" for i in range(num_channels))
            problems.add(name, f"expected {num_channels} channels ({wanted}), found {named}", "add what is missing")
        cases.append(Case(name, tuple(files)))
    problems.raise_if_any()
    return cases
