"""Which images of instance segmentation data are used: by annotation file, by attribute, by list."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from monai_ext.datasets.classification_dataset import shortened
from monai_ext.datasets.coco_dataset import ANNOTATIONS, PREFIX, read_coco
from monai_ext.datasets.folds import Fold
from monai_ext.datasets.instance_dataset import InstanceDataset
from monai_ext.datasets.instance_open import open_instances
from monai_ext.errors import InputError

logger = logging.getLogger(__name__)
WILDCARDS = "*?["


def parse_select(select: str | Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Wanted values by attribute: `type=fluorescence,brightfield;size=small`, or a mapping.

    Raises:
        InputError: the text has another form.
    """
    if isinstance(select, Mapping):
        given = {str(key): value for key, value in select.items()}
        return {
            key: tuple(map(str, value)) if isinstance(value, (list, tuple)) else (str(value),)
            for key, value in given.items()
        }
    wanted: dict[str, tuple[str, ...]] = {}
    for term in filter(None, (term.strip() for term in select.split(";"))):
        key, separator, values = term.partition("=")
        listed = tuple(value.strip() for value in values.split(",") if value.strip())
        if not separator or not key.strip() or not listed:
            raise InputError(f"--select {select!r}: is not NAME=VALUE. Cure: type=fluorescence, or type=a,b;size=small")
        wanted[key.strip()] = listed
    return wanted


def open_with_annotations(
    folder: str, layout: str, classes: Sequence[str], skip_broken: bool, train_annotations: str, val_annotations: str
) -> InstanceDataset:
    """A dataset of which a part may have an annotation file other than the only one there is.

    Args:
        folder, layout, classes, skip_broken: see `open_instances`.
        train_annotations, val_annotations: COCO file, by name in `annotations`, or path of one in another folder of
            this layout, whose images are then named by their whole path; empty takes that of the folder.

    Raises:
        InputError: no such file, or as `read_coco`.
    """
    given = {"train": train_annotations, "val": val_annotations}
    given = {split: name for split, name in given.items() if name}
    if not given:
        return open_instances(folder, layout, classes, skip_broken=skip_broken)
    root = Path(folder)
    splits: dict[str, str] = {}
    others: dict[str, tuple[Path, str]] = {}
    for split in ("train", "val", "test"):
        path = _annotation_file(root, split, given.get(split, ""))
        if path is None:
            continue
        part = path.stem.removeprefix(PREFIX)
        if path.resolve().parent.parent == root.resolve():
            splits[split] = part
        else:
            others[split] = (path.parent.parent, part)
    parts = [read_coco(root, classes, splits, skip_broken)] if splits else []
    for split, (other, part) in others.items():
        names = classes or (parts[0].classes if parts else ())
        found = read_coco(other, names, {split: part}, skip_broken)
        # names are relative to the first folder, in which these images do not lie
        parts.append(replace(found, cases=tuple(replace(case, name=case.path.as_posix()) for case in found.cases)))
    notes = tuple(note for part in parts for note in part.notes)
    return replace(parts[0], root=root, cases=tuple(case for part in parts for case in part.cases), notes=notes)


def _annotation_file(root: Path, split: str, name: str) -> Path | None:
    """The named file, or the only one of a part; None where there is none."""
    if name:
        path = Path(name) if Path(name).is_file() else root / ANNOTATIONS / name
        if not path.is_file() or not path.name.startswith(PREFIX) or path.resolve().parent.name != ANNOTATIONS:
            raise InputError(
                f"--{split}_annotations {name}: is no file {ANNOTATIONS}/{PREFIX}NAME.json. "
                f"Cure: a file in {root / ANNOTATIONS}, or the path of one in another folder of this layout"
            )
        return path
    found = sorted((root / ANNOTATIONS).glob(f"{PREFIX}{split}*.json"))
    if len(found) > 1:
        listed = shortened([path.name for path in found])
        raise InputError(f"{root}: {listed} are all '{split}'. Cure: keep one, or --{split}_annotations NAME")
    return found[0] if found else None


def select_images(dataset: InstanceDataset, select: str | Mapping[str, Any]) -> InstanceDataset:
    """Only images that have the wanted attributes, see `parse_select`.

    Raises:
        InputError: no image has the attribute or all values.
    """
    wanted = parse_select(select)
    if not wanted:
        return dataset
    kept = dataset.where(**wanted)
    if not kept.cases:
        raise InputError(f"--select {select!r}: no image of {dataset.root} has all these values. Cure: fewer of them")
    logger.info("--select keeps %d of %d images", len(kept.cases), len(dataset.cases))
    return kept


def listed_fold(dataset: InstanceDataset, train_list: str, val_list: str) -> Fold:
    """A split made of two lists, see `restricted`.

    Raises:
        InputError: an image is in both.
    """
    every = tuple(sorted(case.name for case in dataset.cases))
    fold = Fold(restricted(every, train_list, "train_list"), restricted(every, val_list, "val_list"))
    both = sorted(set(fold.train) & set(fold.val))
    if both:
        raise InputError(
            f"--train_list and --val_list: {len(both)} images are in both: {shortened(both)}. Cure: each in one"
        )
    return fold


def restricted(names: Sequence[str], listed: str, key: str) -> tuple[str, ...]:
    """Those of the names that a file or a pattern gives.

    Args:
        names: paths relative to the dataset.
        listed: text file with a path, file name or file name without ending per line, or a pattern such as `*/a*.png`;
            empty for all.
        key: of the bundle, for messages.

    Raises:
        InputError: no such file, lines that name no image or several, or a pattern that fits none.
    """
    if not listed:
        return tuple(names)
    if not Path(listed).is_file() and any(sign in listed for sign in WILDCARDS):
        found = tuple(name for name in names if fnmatch(name, listed) or fnmatch(Path(name).name, listed))
        if not found:
            raise InputError(f"--{key} {listed}: fits none of {len(names)} images, such as {shortened([*names], 1)}")
        return found
    try:
        lines = Path(listed).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--{key} {listed}: cannot be read ({error}). Cure: a text file, an image per line") from None
    wanted = [line.strip() for line in lines if line.strip()]
    by_key: dict[str, list[str]] = {}
    for name in names:
        for one in {name, Path(name).name, Path(name).stem}:
            by_key.setdefault(one, []).append(name)
    unknown = [line for line in wanted if len(by_key.get(line, ())) != 1]
    if unknown or not wanted:
        raise InputError(
            f"--{key} {listed}: {len(unknown)} of {len(wanted)} lines name no image, or several, of this part: "
            f"{shortened(unknown)}. Cure: paths as {shortened([*names], 1)}"
        )
    return tuple(sorted({by_key[line][0] for line in wanted}))
