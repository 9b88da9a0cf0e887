"""What a COCO instances file must hold: every record is looked at, and all faults are reported at once, by kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_ext.datasets.classification_dataset import shortened
from monai_ext.datasets.coco_annotation import checked_annotation, is_whole
from monai_ext.datasets.confined_path import path_fault, shown
from monai_ext.datasets.faults import Faults
from monai_ext.datasets.instance_dataset import Annotation, InstanceCase
from monai_ext.datasets.picture_size import picture_size
from monai_ext.errors import InputError, Problems

IMAGE_KEYS = ("id", "file_name", "height", "width")
ANNOTATION_KEYS = ("id", "image_id", "category_id", "segmentation")
CATEGORY_KEYS = ("id", "name")


@dataclass(frozen=True)
class CocoRecords:
    """What of a COCO file can be used.

    Attributes:
        categories: name by id, ascending.
        images: record by id.
        annotations: of each image, by its id.
        notes: what was mapped, repaired or left out.
    """

    categories: Mapping[int, str]
    images: Mapping[int, Mapping[str, Any]]
    annotations: Mapping[int, tuple[Annotation, ...]]
    notes: tuple[str, ...]


def check_records(
    content: Any, problems: Problems, skip_broken: bool = False, require_annotations: bool = True
) -> CocoRecords:
    """Look at every record of a COCO file.

    Args:
        content: the file, parsed.
        problems: gets what is wrong.
        skip_broken: annotations that break a rule are left out and counted in the notes, not refused.
        require_annotations: False for lists of images to be predicted.

    Returns:
        The records without fault.
    """
    empty = CocoRecords({}, {}, {}, ())
    if not isinstance(content, dict):
        problems.add(
            "file", f"holds a {type(content).__name__} where COCO has an object", "a file instances_SPLIT.json"
        )
        return empty
    wanted = ("images", "categories", "annotations") if require_annotations else ("images",)
    for key in wanted:
        if not isinstance(content.get(key), list):
            what = "is missing" if key not in content else f"is no list but {type(content[key]).__name__}"
            problems.add(f"'{key}'", what, "export the file as COCO instances: images, categories, annotations")
    lists = {key: content[key] if isinstance(content.get(key), list) else [] for key in ("images", "categories")}
    images = _unique_records(lists["images"], IMAGE_KEYS, "images", problems)
    categories = _unique_records(lists["categories"], CATEGORY_KEYS, "categories", problems)
    _check_images(images, problems)
    found = content.get("annotations")
    notes: list[str] = []
    if isinstance(content.get("categories"), list) and not categories and require_annotations:
        problems.add("'categories'", "is empty", "name the classes")
    ids = sorted(categories)
    if ids and ids != list(range(ids[0], ids[0] + len(ids))):
        notes.append(f"category ids {shortened(list(map(str, ids)), 5)} have gaps: mapped to 1..{len(ids)}")
    names = {key: str(categories[key]["name"]) for key in ids}
    twice = sorted(name for name, count in Counter(names.values()).items() if count > 1)
    if twice:
        problems.add("categories", f"several have the name {shortened(twice)}", "give each a name of its own")
    by_image = _check_annotations(found if isinstance(found, list) else [], images, ids, problems, notes, skip_broken)
    return CocoRecords(names, images, by_image, tuple(notes))


def check_image_files(
    cases: list[InstanceCase], problems: Problems, notes: list[str] | None = None
) -> list[InstanceCase]:
    """Compare the size of every image file with that of its record; only headers are read.

    Args:
        cases: of one part.
        problems: gathers images without file or of another size.
        notes: gathers them instead, where they are left out.

    Returns:
        Images without fault.
    """
    faults, kept = Faults(), list[InstanceCase]()
    for case in cases:
        try:
            size = picture_size(case.path)
        except InputError as error:
            if not case.path.is_file():
                cure = f"put the files into {case.path.parent}, or remove their records"
                faults.add("have no file", case.name, cure)
            elif notes is None:
                problems.lines.append(str(error))
            else:
                faults.add("cannot be read", case.name)
            continue
        if size != case.size:
            shown = f"{case.name} (file {size[0]}x{size[1]}, stated {case.size[0]}x{case.size[1]})"
            faults.add("have another size (height x width) than stated", shown, "the images that were annotated")
        else:
            kept.append(case)
    if notes is None:
        faults.report(problems, "images")
    else:
        notes += [f"left out: {line}" for line in faults.lines("images")]
    return kept


def _unique_records(
    records: list[Any], keys: tuple[str, ...], noun: str, problems: Problems
) -> dict[int, dict[str, Any]]:
    """Records by id, those without fault; the first of those with one id."""
    faults, named = Faults(), dict[int, dict[str, Any]]()
    for number, record in enumerate(records):
        where = _where(number, record)
        missing = _missing(record, keys)
        if missing:
            faults.add(f"lack {missing}", where, "export the file again with these keys")
        elif not is_whole(record["id"]):
            faults.add("have an id that is no whole number", f"{record['id']!r}", "number them")
        elif record["id"] in named:
            faults.add("have the id of another", where, "number them anew, and their annotations with them")
        else:
            named[int(record["id"])] = record
    faults.report(problems, noun)
    return named


def _check_images(images: dict[int, dict[str, Any]], problems: Problems) -> None:
    faults, files = Faults(), set[str]()
    for key, record in images.items():
        size = record["height"], record["width"]
        if not all(is_whole(edge) and edge > 0 for edge in size):
            faults.add("have no size", f"id {key} ({size[0]!r} x {size[1]!r})", "height and width in pixels")
        if not isinstance(record["file_name"], str) or not record["file_name"]:
            faults.add("have no file_name", f"id {key}", "a path relative to the folder of the images")
        elif fault := path_fault(Path(), record["file_name"].replace("\\", "/"), Path("/")):
            faults.add(fault, f"id {key} ({shown(record['file_name'])})", "the name of a file")
            images[key] = record | {"file_name": f"image {key}"}
        elif record["file_name"] in files:
            faults.add("have the file of another", record["file_name"], "one record per file")
        else:
            files.add(record["file_name"])
    faults.report(problems, "images")
    if faults.found:
        for key in [k for k, r in images.items() if not all(is_whole(r[e]) and r[e] > 0 for e in ("height", "width"))]:
            images[key] = images[key] | {"height": 0, "width": 0}  # so that annotations can still be looked at


def _check_annotations(
    records: list[Any],
    images: Mapping[int, Mapping[str, Any]],
    category_ids: list[int],
    problems: Problems,
    notes: list[str],
    skip_broken: bool,
) -> dict[int, tuple[Annotation, ...]]:
    faults, oddities, seen = Faults(), Faults(), set[int]()
    labels = {key: label for label, key in enumerate(category_ids, start=1)}
    by_image: dict[int, list[Annotation]] = defaultdict(list)
    for number, record in enumerate(records):
        where = _where(number, record)
        missing = _missing(record, ANNOTATION_KEYS)
        if missing:
            faults.add(f"lack {missing}", where)
            continue
        key, image_id, category = record["id"], record["image_id"], record["category_id"]
        broken = True
        if not is_whole(key):
            faults.add("have an id that is no whole number", repr(key))
        elif key in seen:
            faults.add("have the id of another", where)
        elif not is_whole(image_id) or image_id not in images:
            faults.add("name an image that does not exist", f"{where} (image {image_id!r})")
        elif not is_whole(category) or category not in labels:
            faults.add("name a category that does not exist", f"{where} (category {category!r})")
        else:
            broken = False
        if is_whole(key):
            seen.add(key)
        if broken or not images[image_id]["height"]:
            continue
        size = int(images[image_id]["height"]), int(images[image_id]["width"])
        annotation = checked_annotation(record, where, size, labels[category], faults, oddities)
        if annotation is not None:
            by_image[image_id].append(annotation)
    if skip_broken:
        notes += [f"left out: {line}" for line in faults.lines("annotations")]
    else:
        faults.report(problems, "annotations")
    notes += oddities.lines("annotations")
    return {key: tuple(found) for key, found in by_image.items()}


def _missing(record: Any, keys: tuple[str, ...]) -> str:
    """Keys that a record lacks; all of them if it is no record."""
    present = record if isinstance(record, dict) else {}
    return ", ".join(f"'{key}'" for key in keys if key not in present)


def _where(number: int, record: Any) -> str:
    """How a record is called in messages: by its id, else by its place in the list."""
    if isinstance(record, dict) and "id" in record:
        return f"id {record['id']}"
    return f"number {number + 1}"


def path_of(folder: Path, file_name: str) -> Path:
    """The file of an image record, whose name may be given with the separators of Windows."""
    return folder / file_name.replace("\\", "/")
