"""Instance segmentation data in COCO's layout: `images/SPLIT/*` and `annotations/instances_SPLIT.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_ext.datasets.classification_dataset import SPLIT_NAMES, shortened
from monai_ext.datasets.coco_check import IMAGE_KEYS, CocoRecords, check_image_files, check_records, path_of
from monai_ext.datasets.confined_path import CURE, path_fault, shown
from monai_ext.datasets.faults import Faults
from monai_ext.datasets.instance_dataset import InstanceCase, InstanceDataset
from monai_ext.errors import InputError, Problems

ANNOTATIONS, PREFIX = "annotations", "instances_"
NOT_SHOWN = ("license", "coco_url", "flickr_url", "date_captured")


def is_coco_folder(folder: str | Path) -> bool:
    """A folder with `annotations/instances_*.json`."""
    return bool(_files(Path(folder)))


def read_coco(
    folder: str | Path,
    classes: Sequence[str] = (),
    splits: Mapping[str, str] | None = None,
    skip_broken: bool = False,
) -> InstanceDataset:
    """Read all parts of a dataset.

    Images of `instances_SPLIT.json` lie in `images/SPLIT`, `SPLIT` or `images`. A part is called `train`, `val` or
    `test` if its name begins so (`train2017`), else by its name. Crowd regions are kept as such. Category ids may have
    gaps; classes are the categories by ascending id.

    Args:
        folder: holds `annotations`.
        classes: names in the order that a model has them; empty takes the categories. Others are refused.
        splits: which file is which part, such as `{"train": "train2017"}`, where a folder holds several; None takes
            all, which must then differ in their part.
        skip_broken: leave out annotations that break a rule, and images whose file is missing or of another size, and
            say so, instead of refusing the dataset.

    Raises:
        InputError: one error with all problems of all parts: see `check_records` and `check_image_files`; no object
            in the whole set.
    """
    folder = Path(folder)
    files = _chosen(folder, splits)
    problems, notes = Problems(f"COCO dataset {folder}"), list[str]()
    parts = {split: _read_file(path, problems, skip_broken) for split, path in files.items()}
    categories = _same_categories(parts, files, classes, problems)
    cases: list[InstanceCase] = []
    for split, records in parts.items():
        notes += [f"{files[split].name}: {note}" for note in records.notes]
        found = _cases(folder, files[split], split, records, problems)
        cases += check_image_files(found, problems, notes if skip_broken else None)
    if not len(problems) and not any(not a.crowd for case in cases for a in case.annotations):
        crowds = sum(len(case.annotations) for case in cases)
        beside = f", only {crowds} crowd regions" if crowds else ""
        problems.add("annotations", f"no object in {len(cases)} images{beside}", "annotate objects, or export them")
    problems.raise_if_any()
    return InstanceDataset(folder, tuple(categories.values()), tuple(categories), tuple(cases), tuple(notes))


def read_coco_file(path: Path, problems: Problems) -> Any:
    """Content of a JSON file; None if it cannot be read, which is noted."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        problems.add(path, f"cannot be opened ({error.strerror})", "a readable file")
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        problems.add(path, f"is no JSON ({error})", "export it again; it may be cut off")
    return None


def _files(folder: Path) -> dict[str, Path]:
    """Annotation files by the name of their part as it is in the file name."""
    found = sorted((folder / ANNOTATIONS).glob(f"{PREFIX}*.json"))
    return {path.stem.removeprefix(PREFIX): path for path in found if path.is_file()}


def _chosen(folder: Path, splits: Mapping[str, str] | None) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder. Cure: a folder with images/SPLIT and {ANNOTATIONS}")
    files = _files(folder)
    if not files:
        raise InputError(f"{folder}: holds no {ANNOTATIONS}/{PREFIX}SPLIT.json. Cure: put them there")
    if splits is not None:
        unknown = sorted(set(splits.values()) - set(files))
        if unknown:
            known = shortened(list(files))
            raise InputError(f"{folder}: has no part {shortened(unknown)}. Cure: choose from {known}")
        return {split: files[name] for split, name in splits.items()}
    chosen: dict[str, Path] = {}
    for name, path in files.items():
        split = _split_name(name)
        if split in chosen:
            both = f"{chosen[split].name} and {path.name}"
            raise InputError(f"{folder}: {both} are both '{split}'. Cure: keep one, or name the file of each part")
        chosen[split] = path
    order = {split: place for place, split in enumerate(("train", "val", "test"))}
    return dict(sorted(chosen.items(), key=lambda item: (order.get(item[0], 3), item[0])))


def _split_name(name: str) -> str:
    """`train2017` -> `train`; names without such a beginning stay."""
    letters = name.lower().rstrip("0123456789_-")
    return SPLIT_NAMES.get(letters, name)


def _read_file(path: Path, problems: Problems, skip_broken: bool) -> CocoRecords:
    content = read_coco_file(path, problems)
    if content is None:
        return CocoRecords({}, {}, {}, ())
    own = Problems(path.name)
    records = check_records(content, own, skip_broken)
    problems.lines += [f"{path.name}: {line}" for line in own.lines]
    return records


def _same_categories(
    parts: Mapping[str, CocoRecords], files: Mapping[str, Path], classes: Sequence[str], problems: Problems
) -> dict[int, str]:
    """Names by category id, which all parts must agree on."""
    found = {split: dict(records.categories) for split, records in parts.items() if records.categories}
    if not found:
        return {}
    first = next(iter(found))
    for split, categories in found.items():
        if categories != found[first]:
            listed = shortened([f"{key} {name}" for key, name in categories.items()], 5)
            other = shortened([f"{key} {name}" for key, name in found[first].items()], 5)
            problems.add(
                files[split].name, f"has categories {listed}; {files[first].name} has {other}", "the same list"
            )
    if classes and tuple(classes) != tuple(found[first].values()):
        has = shortened(list(found[first].values()))
        problems.add("categories", f"are {has}, the model has {shortened(list(classes))}", "data of the same classes")
    return found[first]


def _cases(folder: Path, file: Path, split: str, records: CocoRecords, problems: Problems) -> list[InstanceCase]:
    part = file.stem.removeprefix(PREFIX)
    usable = {key: r for key, r in records.images.items() if r["height"] and isinstance(r["file_name"], str)}
    choices = (folder / "images" / part, folder / part, folder / "images")
    present = [choice for choice in choices if choice.is_dir()] or [choices[0]]
    # a file name may hold the name of the part as well
    first = next(iter(usable.values()), {"file_name": ""})["file_name"]
    images = next((choice for choice in present if path_of(choice, first).is_file()), present[0])
    cases, faults = [], Faults()
    for key, record in usable.items():
        path = path_of(images, record["file_name"])
        fault = path_fault(images, record["file_name"].replace("\\", "/"), folder)
        if fault:
            faults.add(f"name a file that {fault}", f"id {key} ({shown(record['file_name'])})", CURE)
            continue
        known = {k: str(v) for k, v in record.items() if k not in (*IMAGE_KEYS, *NOT_SHOWN)}
        cases.append(
            InstanceCase(
                name=path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path),
                path=path,
                split=split,
                size=(int(record["height"]), int(record["width"])),
                annotations=records.annotations.get(key, ()),
                image_id=key,
                attributes=known,
            )
        )
    own = Problems(file.name)
    faults.report(own, "images")
    problems.lines += [f"{file.name}: {line}" for line in own.lines]
    return sorted(cases, key=lambda case: case.name)
