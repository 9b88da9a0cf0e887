"""Classification data as a folder per class: `train/CLASS/*`, `val/CLASS/*`, or `CLASS/*`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai_ext.datasets.classification_dataset import (
    SPLIT_NAMES,
    ClassificationDataset,
    ImageCase,
    class_order,
    other_files,
    picture_files,
    shortened,
)
from monai_ext.datasets.file_names import is_hidden
from monai_ext.errors import InputError, Problems


def read_class_folders(folder: str | Path, classes: Sequence[str] = ()) -> ClassificationDataset:
    """Read the layout that torchvision calls ImageFolder; folders inside a class are searched as well.

    A folder with a folder `train` (or `training`) is split by its folders `train`, `val` (`valid`, `validation`) and
    `test` (`testing`); images that lie in `test` itself are not labelled. Else each folder is a class. Classes are the
    names of the class folders of all parts, sorted; numbers by value.

    Args:
        folder: holds the folders.
        classes: names in the order that a model has them; empty takes the folders. A folder of another name is refused.

    Raises:
        InputError: one error with all problems: no folder, no class folders, no images, unknown classes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder. Cure: a folder train/CLASS/*, val/CLASS/* or CLASS/*, or a table")
    problems, notes = Problems(f"classes in {folder}"), list[str]()
    parts = _parts(folder, problems, notes)
    folders = [(split, path) for split, part in parts for path in _folders(part)]
    names = {path.name for _, path in folders}
    loose = {part: list(picture_files(part, deep=False)) for _, part in parts}
    if not names and not any(loose.values()):
        problems.add(folder, "holds neither class folders nor images", "train/CLASS/*, val/CLASS/* or CLASS/*")
    elif not names:
        problems.add(folder, "holds images but no class folders", "one folder per class, or a table file,label")
    order = tuple(classes) or class_order(names)
    unknown = sorted(names - set(order))
    if unknown:
        problems.add(
            f"{len(unknown)} folders",
            f"are no classes of the model: {shortened(unknown)}",
            f"known are {shortened([*order])}",
        )
    problems.raise_if_any()
    index = {name: number for number, name in enumerate(order)}
    cases = [
        ImageCase(path.relative_to(folder).as_posix(), path, (index[class_folder.name],), split)
        for split, class_folder in folders
        for path in picture_files(class_folder)
    ]
    for split, part in parts:
        if split == "test" and not _folders(part):
            cases += [ImageCase(path.relative_to(folder).as_posix(), path, (), split) for path in loose[part]]
        elif loose[part]:
            named = shortened([path.name for path in loose[part]], 3)
            where = part.name if part != folder else str(folder)
            notes.append(f"{len(loose[part])} images beside the class folders of {where} are not used: {named}")
    others = other_files([path for _, path in folders])
    if others:
        notes.append(f"{len(others)} files in class folders are of kinds that are not read: {shortened(others, 3)}")
    if not cases:
        raise InputError(
            f"{folder}: the class folders hold no image. Cure: put in PNG, JPEG, TIFF, DICOM or NIfTI files"
        )
    return ClassificationDataset(
        folder, order, tuple(sorted(cases, key=lambda case: case.name)), multi_label=False, notes=tuple(notes)
    )


def _parts(folder: Path, problems: Problems, notes: list[str]) -> list[tuple[str, Path]]:
    """Split and folder of each part; one part without name where the dataset has no split."""
    inside = _folders(folder)
    named = [path for path in inside if path.name.lower() in SPLIT_NAMES]
    others = [path for path in inside if path not in named]
    # classes may be called so: a folder `train` is one to train on if it has class folders, or has nothing beside it
    if not named or (others and not any(SPLIT_NAMES[p.name.lower()] == "train" and _folders(p) for p in named)):
        return [("", folder)]
    found: dict[str, Path] = {}
    for path in named:
        split = SPLIT_NAMES[path.name.lower()]
        if split in found:
            problems.add(path.name, f"is the part '{split}' as is {found[split].name}", "keep one of the folders")
        found.setdefault(split, path)
    unused = [path.name for path in others if any(True for _ in picture_files(path))]
    if unused:
        notes.append(f"folders beside train are not used: {shortened(unused)}")
    return [(split, found[split]) for split in ("train", "val", "test") if split in found]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path))
