"""Datasets in the format of the Medical Segmentation Decathlon or of nnU-Net v2: `dataset.json` and its file list."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from monai_ext.datasets.confined_path import CURE, path_fault, shown
from monai_ext.datasets.file_names import IMAGE_ENDINGS, image_ending, is_hidden, name_without_ending, split_channel
from monai_ext.datasets.msd_description import Description, ListedCase, nearest_name, read_description
from monai_ext.datasets.segmentation_dataset import Case, SegmentationDataset
from monai_ext.errors import Problems

IGNORE = "ignore"
ONE_SLICE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp")  # formats without room for a second slice


def read_msd(folder: Path) -> SegmentationDataset:
    """Read `dataset.json` and check that it and the files it lists fit together; no image is opened.

    Both forms are understood: the Decathlon's (`modality`, `labels: {"0": "background"}`, a `training` list whose
    images may be one file or one file per channel) and nnU-Net v2's (`channel_names`, `labels: {"background": 0}`,
    no list: `imagesTr/CASE_0000.nii.gz` and `labelsTr/CASE.nii.gz`). nnU-Net v1 lists images without their channel
    number; its folders are read as those of v2. Without `tensorImageSize`, PNG, JPEG and BMP files are 2D.

    Returns:
        The dataset; case names are file names without ending and channel number.

    Raises:
        InputError: one error with all problems found.
    """
    folder = Path(folder)
    description = read_description(folder)
    problems = Problems(f"dataset {folder}")
    channels = _channels(description, problems)
    labels, ignore_label = _labels(description, problems)
    if description.training is None or _lists_without_channel_numbers(folder, description.training):
        training = _find_cases(folder, "imagesTr", "labelsTr", description.file_ending, len(channels), problems)
        test = _find_cases(folder, "imagesTs", None, description.file_ending, len(channels), problems)
    else:
        training = [
            case for entry in description.training if (case := _listed(folder, entry, True, channels, problems))
        ]
        test = [case for entry in description.test if (case := _listed(folder, entry, False, channels, problems))]
        listed = len(description.training)
        if not listed:
            problems.add("dataset.json", "'training' is empty", "list at least two cases with image and label")
        elif listed == 1:
            problems.add("dataset.json", "'training' has one case, no case is left to validate on", "list two or more")
        if description.numTraining not in (None, listed):
            problems.add(
                "dataset.json",
                f"numTraining is {description.numTraining}, but 'training' lists {listed} cases",
                f"set it to {listed} or remove it",
            )
    _check_unique([*training, *test], problems)
    spatial_dims = _spatial_dims(description, training, problems)
    problems.raise_if_any()
    return SegmentationDataset(
        name=description.name or folder.resolve().name,
        root=folder,
        channels=channels,
        labels=labels,
        training=tuple(sorted(training, key=lambda case: case.name)),
        test=tuple(sorted(test, key=lambda case: case.name)),
        spatial_dims=spatial_dims,
        ignore_label=ignore_label,
    )


def _channels(description: Description, problems: Problems) -> tuple[str, ...]:
    field = "channel_names" if description.channel_names is not None else "modality"
    value = description.channel_names if description.channel_names is not None else description.modality
    if not value:
        problems.add("dataset.json", "has neither 'modality' nor 'channel_names'", 'add "modality": {"0": "MRI"}')
        return ("unknown",)
    if isinstance(value, list):
        return tuple(value)
    if set(value) != {str(i) for i in range(len(value))}:
        problems.add(
            f"dataset.json: {field}",
            f"channels must be numbered '0' to '{len(value) - 1}', found {', '.join(value)}",
            "number them without gaps",
        )
        return tuple(value.values())
    return tuple(value[str(i)] for i in range(len(value)))


def _labels(description: Description, problems: Problems) -> tuple[dict[str, int], int | None]:
    where, labels = "dataset.json: labels", dict[str, int]()
    regions = [name for name, value in description.labels.items() if isinstance(value, list)]
    if regions:
        problems.add(
            where,
            f"regions are not supported yet, found lists for {', '.join(regions)}",
            "give each class one integer; regions can be joined from the prediction",
        )
        return {}, None
    numbers_first = all(isinstance(value, str) and not _is_integer(value) for value in description.labels.values())
    for key, value in description.labels.items():
        name, number = (str(value), key) if numbers_first else (key, str(value))
        if not _is_integer(number):
            problems.add(
                where, f"value of '{name}' must be an integer, found {number[:60]}", "number the classes from 0"
            )
        elif name in labels:
            problems.add(where, f"two classes are named '{name}'", "rename one")
        else:
            labels[name] = int(number)
    values = sorted(labels.values())
    if len(labels) == len(description.labels) and values != list(range(len(values))):
        problems.add(
            where,
            f"values must be consecutive from 0, found {', '.join(map(str, values))}",
            "renumber the classes, in dataset.json and in the label files",
        )
    ignore = labels.get(IGNORE)
    if ignore is not None and ignore != max(values):
        problems.add(where, f"'ignore' must have the highest value, found {ignore}", "renumber the classes")
    return dict(sorted(labels.items(), key=lambda item: item[1])), ignore


def _spatial_dims(description: Description, training: list[Case], problems: Problems) -> int:
    if description.tensorImageSize is None and training:
        return 2 if all(path.suffix.lower() in ONE_SLICE_ENDINGS for case in training for path in case.images) else 3
    size = (description.tensorImageSize or "3D").strip().upper()
    if size not in ("2D", "3D", "4D"):
        problems.add("dataset.json", f"tensorImageSize must be 2D, 3D or 4D, found {size}", "3D for volumes")
    return 2 if size == "2D" else 3  # 4D: volumes with several channels in one file


def _listed(
    folder: Path, entry: ListedCase | str, labelled: bool, channels: tuple[str, ...], problems: Problems
) -> Case | None:
    if isinstance(entry, str):
        entry = ListedCase(image=entry)
    listed = [entry.image] if isinstance(entry.image, str) else entry.image
    if not listed:
        problems.add("dataset.json", "a case has an empty list of images", "name its files or remove it")
        return None
    name = name_without_ending(Path(listed[0]))
    if len(listed) > 1 or _is_channel_of(folder, entry.label, name):
        name = split_channel(name)[0]
    if len(listed) > 1 and len(listed) != len(channels):
        problems.add(name, f"lists {len(listed)} images, dataset.json names {len(channels)} channels", "list one each")
    images = [_checked_file(folder, text, problems) for text in listed]
    label = None
    if labelled and entry.label is None:
        problems.add(name, "is a training case without 'label'", "name its label file or move it to 'test'")
    elif labelled and entry.label is not None:
        label = _checked_file(folder, entry.label, problems)
    return Case(name, tuple(images), label)


def _lists_without_channel_numbers(folder: Path, training: list[ListedCase]) -> bool:
    """nnU-Net v1: `imagesTr/CASE.nii.gz` is listed where `imagesTr/CASE_0000.nii.gz` lies."""
    if not training or not isinstance(training[0].image, str) or path_fault(folder, training[0].image):
        return False
    listed = folder / training[0].image
    numbered = listed.with_name(f"{name_without_ending(listed)}_0000{image_ending(listed)}")
    return not listed.exists() and numbered.is_file()


def _is_channel_of(folder: Path, label: str | None, image_name: str) -> bool:
    """`CASE_0000` is channel 0 of `CASE` if the label is called `CASE`; else the number belongs to the name."""
    case, channel = split_channel(image_name)
    return channel == 0 and label is not None and name_without_ending(Path(label)) == case


def _checked_file(folder: Path, text: str, problems: Problems, listed: bool = True) -> Path:
    """A file of a list must lie in the folder; one that was found there may be a link to elsewhere."""
    path = folder / text
    fault = path_fault(folder, text) if listed else ""
    if fault:
        problems.add(shown(text), fault, f"{CURE}; list it relative to the folder")
    elif not path.exists():
        siblings = [p.name for p in path.parent.iterdir() if not is_hidden(p)] if path.parent.is_dir() else []
        near = nearest_name(path.name, siblings) if siblings else f": folder {path.parent.name} is missing or empty"
        problems.add(text, f"is listed but does not exist{near}", "restore the file or remove the entry")
    elif path.is_file() and not image_ending(path):
        problems.add(text, "has an unknown image format", f"convert to one of {', '.join(IMAGE_ENDINGS)}")
    return folder / Path(text)


def _find_cases(
    folder: Path, images: str, labels: str | None, ending: str | None, num_channels: int, problems: Problems
) -> list[Case]:
    """Cases of a folder without list: `CASE_0000<ending>`, one per channel, and `CASE<ending>` as label."""
    required = labels is not None
    if not (folder / images).is_dir():
        if required:
            problems.add("dataset.json", f"has no 'training' list and there is no folder {images}", "add one of them")
        return []
    fits = [p for p in sorted((folder / images).iterdir()) if not is_hidden(p) and _has_ending(p, ending)]
    groups: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in fits:
        name, channel = split_channel(name_without_ending(path))
        if channel is None:
            problems.add(f"{images}/{path.name}", "has no channel number", f"rename to {name}_0000{image_ending(path)}")
        else:
            groups[name][channel] = path
    cases = []
    for name, files in sorted(groups.items()):
        if sorted(files) != list(range(num_channels)) and not _is_colour_picture(files, num_channels):
            found = ", ".join(f"{c:04d}" for c in sorted(files))
            problems.add(name, f"has channels {found}, dataset.json names {num_channels}", "add or remove files")
        label = None
        if labels is not None:
            first = files[min(files)]
            label = folder / labels / f"{name}{ending or image_ending(first)}"
            _checked_file(folder, f"{labels}/{label.name}", problems, listed=False)
        cases.append(Case(name, tuple(files[c] for c in sorted(files)), label))
    if required and len(cases) < 2:
        wanted = f"*_0000{ending or '.nii.gz'}"
        problems.add(images, f"holds {len(cases)} cases named {wanted}, at least 2 are needed", "add cases")
    return cases


def _is_colour_picture(files: dict[int, Path], num_channels: int) -> bool:
    """nnU-Net stores the channels of a colour picture in one file, `CASE_0000.png`."""
    return list(files) == [0] and num_channels > 1 and files[0].suffix.lower() in ONE_SLICE_ENDINGS


def _has_ending(path: Path, ending: str | None) -> bool:
    return bool(image_ending(path)) if ending is None else path.name.endswith(ending)


def _check_unique(cases: list[Case], problems: Problems) -> None:
    by_name: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_name[case.name].append(case)
    for name, same in by_name.items():
        if len(same) > 1:
            files = ", ".join(str(Path(*case.images[0].parts[-2:])) for case in same)
            problems.add(name, f"is the name of {len(same)} cases ({files})", "list each once, or rename files")


def _is_integer(text: str) -> bool:
    return len(text) < 19 and text.strip().removeprefix("-").isdecimal()
