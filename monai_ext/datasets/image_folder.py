"""Folders of equally named images and masks as a source of conversion."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from monai_ext.datasets.conversion import COLOURS, ConversionPlan
from monai_ext.datasets.conversion_masks import choose_classes, list_values
from monai_ext.datasets.file_names import IMAGE_ENDINGS, is_hidden
from monai_ext.datasets.image_files import read_image
from monai_ext.datasets.itk_files import PICTURE_ENDINGS, TIFF_ENDINGS, picture_channels
from monai_ext.datasets.segmentation_dataset import Case
from monai_ext.errors import InputError, Problems

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "inputs", "input")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "segmentations", "segmentation", "gt", "targets")
MASK_MARKS = ("_mask", "_masks", "_label", "_labels", "_seg", "_segmentation", "_gt")
ENDINGS = tuple(dict.fromkeys((*IMAGE_ENDINGS, *PICTURE_ENDINGS)))
CHANNEL_NAMES = {1: ("grey",), 3: ("R", "G", "B")}
LISTED_NAMES = 5
TABLE_FILE = "cases.csv"


def is_image_folder(folder: Path) -> bool:
    """A folder with two folders of images and masks, or with files `NAME.png` and `NAME_mask.png`."""
    return all(_part(folder, names) for names in (IMAGE_FOLDERS, MASK_FOLDERS)) or any(
        _stem(path).endswith(MASK_MARKS) for path in _files(folder)
    )


def plan_image_folder(
    folder: Path,
    images: str = "",
    masks: str = "",
    names: Sequence[str] = (),
    channels: Sequence[str] = (),
    above: int | None = None,
    background: int | None = None,
    colour: str = "",
) -> ConversionPlan:
    """Plan the conversion of a folder of images and masks; all masks are opened.

    Folders inside are searched as well; a case is named after its path, with `_` between folders. Images without
    mask become test cases.

    Args:
        folder: holds e.g. `images` and `masks`, or files `NAME.png` and `NAME_mask.png`.
        images: folder of the images, if it has no usual name.
        masks: folder of the masks, if it has no usual name.
        names: of the classes, in the order of the grey values of the masks.
        channels: names of the channels; empty gives `grey`, or `R`, `G`, `B`, or `image` for volumes.
        above: grey values above it are class 1, all others background.
        background: grey value of the background; None is the lowest.
        colour: `rgb` or `grey` turns all pictures into one kind.

    Raises:
        InputError: one error with all problems: masks without image, unreadable masks, grey and colour mixed.
    """
    if colour not in COLOURS:
        raise InputError(f"--colour {colour}: unknown. Cure: choose rgb or grey")
    problems = Problems(f"images and masks in {folder}")
    image_files, mask_files = _pairs(folder, images, masks, problems)
    orphans = sorted(set(mask_files) - set(image_files))
    if orphans:
        problems.add("masks", f"{len(orphans)} have no image: {_shortened(orphans)}", "add the images, or remove them")
    cases = [Case(key.replace("/", "_"), (path,), mask_files.get(key)) for key, path in sorted(image_files.items())]
    _require_unique([case.name for case in cases], problems)
    used = [case.label for case in cases if case.label is not None]
    if not used:
        problems.add("masks", "no image has a mask of the same name", f"images are {_shortened(sorted(image_files))}")
    values, colour_files = list_values(used, problems)
    if values:
        classes, labels = choose_classes(
            values, names, problems, above=above, background=background, colour_files=colour_files
        )
    count, spatial_dims = _kind(cases, colour, problems)
    default = CHANNEL_NAMES.get(count) if _is_picture(cases) else None
    chosen = tuple(channels) or default or tuple(f"image_{i}" if count > 1 else "image" for i in range(count))
    if count and len(chosen) != count:
        problems.add("--channels", f"names {len(chosen)} channels, the images have {count}", "name each channel")
    problems.raise_if_any()
    without = [case.name for case in cases if case.label is None]
    return ConversionPlan(
        layout="folders",
        channels=chosen,
        labels=labels,
        cases=tuple(cases),
        spatial_dims=spatial_dims,
        values=classes,
        colour=colour,
        tables=_tables(cases, image_files),
        notes=(
            *([f"{len(without)} images without mask become test cases: {_shortened(without)}"] if without else []),
            *classes.describe(labels),
        ),
    )


def _pairs(folder: Path, images: str, masks: str, problems: Problems) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and masks by their common name, which is a path without ending relative to their folder."""
    image_folder = folder / images if images else _part(folder, IMAGE_FOLDERS)
    mask_folder = folder / masks if masks else _part(folder, MASK_FOLDERS)
    for option, given in (("--images", image_folder), ("--masks", mask_folder)):
        if given is not None and not given.is_dir():
            raise InputError(f"{option}: {given} is not a folder. Cure: name a folder in {folder}")
    if image_folder is None and mask_folder is None:
        flat = _by_name(folder, problems)
        marked = {key: path for key, path in flat.items() if key.endswith(MASK_MARKS)}
        image_files = {key: path for key, path in flat.items() if key not in marked}
        return image_files, _named_as_images(image_files, marked, problems)
    if image_folder is None or mask_folder is None:
        found, option = (mask_folder, "--images") if image_folder is None else (image_folder, "--masks")
        inside = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir())) or "none"
        raise InputError(f"{folder}: only {found} was recognised, folders are {inside}. Cure: give {option} NAME")
    image_files, mask_files = _by_name(image_folder, problems), _by_name(mask_folder, problems)
    return image_files, _named_as_images(image_files, mask_files, problems)


def _named_as_images(images: dict[str, Path], masks: dict[str, Path], problems: Problems) -> dict[str, Path]:
    """Masks by the name of their image, which lacks the mark (`_mask`) that the mask's may have."""
    named: dict[str, Path] = {}
    for key, path in masks.items():
        image = key if key in images else next((key.removesuffix(m) for m in MASK_MARKS if key.endswith(m)), key)
        if image in named:
            problems.add(image, f"has two masks, {named[image].name} and {path.name}", "keep one")
        named[image] = path
    return named


def _part(folder: Path, names: Sequence[str]) -> Path | None:
    present = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    return next((present[name] for name in names if name in present), None)


def _files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.name.lower().endswith(ENDINGS) and path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _by_name(folder: Path, problems: Problems) -> dict[str, Path]:
    named: dict[str, list[Path]] = defaultdict(list)
    for path in _files(folder):
        if not is_hidden(path):
            named[(path.relative_to(folder).parent / _stem(path)).as_posix()].append(path)
    for key, same in named.items():
        if len(same) > 1:
            listed = ", ".join(path.name for path in same)
            problems.add(folder.name, f"{len(same)} files are named {key}: {listed}", "keep one")
    return {key: same[0] for key, same in named.items()}


def _stem(path: Path) -> str:
    name = path.name.lower()
    ending = next((ending for ending in ENDINGS if name.endswith(ending)), "")
    return path.name[: len(path.name) - len(ending)]


def _require_unique(names: Sequence[str], problems: Problems) -> None:
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        problems.add("names", f"several images would be called {_shortened(twice)}", "rename files or folders")


def _kind(cases: Sequence[Case], colour: str, problems: Problems) -> tuple[int, int]:
    """Channels and dimensions of the images; grey and colour must not be mixed."""
    groups: dict[int, list[str]] = defaultdict(list)
    for case in cases:
        count = picture_channels(case.images[0])
        if count is not None:
            groups[count].append(case.name)
    if len(groups) > 1 and not colour:
        listed = "; ".join(f"{n} channels: {len(found)} ({_shortened(found)})" for n, found in sorted(groups.items()))
        cure = "--colour rgb or --colour grey turns all into one"
        problems.add("images", f"grey and colour are mixed, {listed}", cure)
    if not cases:
        problems.add("images", "there are none", f"put in files that end in {', '.join(ENDINGS)}")
        return 0, 2
    first = cases[0].images[0]
    if groups and first.suffix.lower() not in TIFF_ENDINGS:
        return COLOURS[colour] or max(groups, key=lambda n: len(groups[n])), 2
    try:
        image, _ = read_image([first])
    except InputError as error:
        problems.lines.append(str(error))
        return 0, 3
    return COLOURS[colour] or int(image.shape[0]), 2 if image.shape[1] == 1 else 3


def _is_picture(cases: Sequence[Case]) -> bool:
    return bool(cases) and cases[0].images[0].suffix.lower() in PICTURE_ENDINGS


def _tables(cases: Sequence[Case], image_files: dict[str, Path]) -> dict[str, str]:
    """The folder of every case, for `group_by folder`, if there are several."""
    keys = sorted(image_files)
    folders = [key.rpartition("/")[0] for key in keys]
    if len(set(folders)) < 2:
        return {}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "folder"])
    writer.writerows((case.name, folder or ".") for case, folder in zip(cases, folders, strict=True))
    return {TABLE_FILE: text.getvalue()}


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED_NAMES} more" if len(names) > LISTED_NAMES else ""
    return ", ".join(names[:LISTED_NAMES]) + more
