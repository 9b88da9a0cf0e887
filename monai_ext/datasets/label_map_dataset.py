"""Instance segmentation data as a folder of images and one of instance label maps with equal names."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from monai_ext.datasets.classification_dataset import SPLIT_NAMES, shortened
from monai_ext.datasets.decoding_errors import DECODING_ERRORS
from monai_ext.datasets.file_names import is_hidden
from monai_ext.datasets.instance_dataset import InstanceCase, InstanceDataset
from monai_ext.datasets.itk_files import PICTURE_ENDINGS, read_with_itk
from monai_ext.datasets.picture_size import picture_size
from monai_ext.errors import InputError, Problems

IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MAP_FOLDERS = ("labels", "label", "masks", "mask", "label_maps", "instances", "gt")
MAP_MARKS = ("_masks", "_mask", "_labels", "_label", "_instances", "_seg", "_gt")
MAP_ENDINGS = (".png", ".tif", ".tiff", ".bmp")  # JPEG changes values at edges
IMAGE_MARK = "_img"
TABLE, FILE_COLUMN = "images.csv", "file"
LARGEST = 2**31 - 1


def is_label_map_folder(folder: str | Path) -> bool:
    """A folder that holds images and label maps in one of the forms of `read_label_maps`."""
    folder = Path(folder)
    return folder.is_dir() and bool(_pairs_of_folders(folder) or _marked(folder))


def read_label_maps(folder: str | Path, class_name: str = "object", require_labels: bool = True) -> InstanceDataset:
    """Read images and label maps, in which 0 is no object and each other value one object, with or without gaps.

    Forms: `images/SPLIT/*` and `labels/SPLIT/*`; `SPLIT/images/*` and `SPLIT/labels/*`; `images/*` and `labels/*`;
    `NAME.png` and `NAME_mask.png` in one folder. Folders may be called `masks` and the like. A table `images.csv`
    with a column `file` adds attributes of images.

    Args:
        folder: in one of these forms.
        class_name: of the objects; a label map has one class.
        require_labels: refuse images without label map; else they are left out and counted. Those of a part `test` are
            always allowed.

    Raises:
        InputError: one error with all problems: no such form, images without label map or label maps without image,
            images whose header cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder. Cure: a folder with images and label maps")
    problems, notes = Problems(f"images and label maps in {folder}"), list[str]()
    attributes = _table(folder)
    pairs = _pairs_of_folders(folder)
    parts = [(split, *_named(images, maps, problems)) for split, images, maps in pairs]
    if not parts:
        flat = _marked(folder)
        if not flat:
            raise InputError(
                f"{folder}: holds no images with label maps. Cure: images/*.png and labels/*.png of the same names"
            )
        images = {name: path for name, path in _by_name(folder, problems).items() if path not in flat.values()}
        parts = [("", {name.removesuffix(IMAGE_MARK): path for name, path in images.items()}, flat)]
    cases: list[InstanceCase] = []
    for split, images, maps in parts:
        alone = sorted(set(images) - set(maps))
        if alone and split != "test":
            what = f"have no label map: {shortened(alone)}"
            if require_labels:
                problems.add(f"{len(alone)} images", what, "add an empty map if there is no object, or remove them")
            else:
                notes.append(f"left out: {len(alone)} images {what}")
        orphans = sorted(set(maps) - set(images))
        if orphans:
            problems.add(f"{len(orphans)} label maps", f"have no image: {shortened(orphans)}", "add the images")
        for name in sorted(images):
            if name not in maps and split != "test":
                continue
            try:
                size = picture_size(images[name])
            except InputError as error:
                problems.lines.append(str(error))
                continue
            known = attributes.get(images[name].name, {})
            cases.append(
                InstanceCase(
                    name=images[name].relative_to(folder).as_posix(),
                    path=images[name],
                    split=split,
                    size=size,
                    label_path=maps.get(name),
                    image_id=len(cases) + 1,
                    attributes=known,
                )
            )
    if not cases and not len(problems):
        problems.add(folder, "holds no image", f"put in files that end in {', '.join(PICTURE_ENDINGS)}")
    problems.raise_if_any()
    return InstanceDataset(folder, (class_name,), (1,), tuple(cases), tuple(notes))


def read_instance_map(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a label map: PNG, BMP or TIFF of whole numbers; floating-point numbers without fraction are taken as such.

    Args:
        path: of the file.
        size: (height, width) of its image; None does not compare.

    Returns:
        `[H, W]` int32, 0 for no object.

    Raises:
        InputError: the file cannot be read, is no map of one channel, has another size than the image, or values that
            are negative, fractions or beyond 31 bits.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: file does not exist. Cure: check the name, or restore the file")
    if path.suffix.lower() not in MAP_ENDINGS:
        raise InputError(f"{path}: label maps are read from {', '.join(MAP_ENDINGS)}. Cure: export it as PNG or TIFF")
    try:
        stored, _ = read_with_itk(path, as_label=True)
    except InputError:
        raise
    except DECODING_ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise InputError(
            f"{path}: cannot be read, the file is damaged or incomplete ({reason}). Cure: copy or export it again"
        ) from error
    labels = stored.T if stored.ndim == 2 else np.moveaxis(stored, 0, 1)
    if labels.ndim == 3 and (labels == labels[..., :1]).all():
        labels = labels[..., 0]  # saved as colours with equal channels
    if labels.ndim != 2:
        shape = "x".join(map(str, labels.shape))
        raise InputError(
            f"{path}: is no label map but has shape {shape}. Cure: one channel with a number for each object"
        )
    if size is not None and labels.shape != tuple(size):
        raise InputError(
            f"{path}: label map has {labels.shape[0]}x{labels.shape[1]} pixels, its image {size[0]}x{size[1]} "
            "(height x width). Cure: the label map that was drawn on this image"
        )
    if labels.dtype.kind == "f":
        whole = np.isfinite(labels) & (labels == np.rint(labels))
        if not whole.all():
            raise InputError(
                f"{path}: label values must be whole numbers, found {labels[~whole][0]:g} in {int((~whole).sum())} "
                "pixels. Cure: number the objects; if the map was resized, resize with nearest neighbour"
            )
    low, high = labels.min(initial=0), labels.max(initial=0)
    if low < 0 or high > LARGEST:
        raise InputError(f"{path}: label values from {low:g} to {high:g}. Cure: number the objects from 1, 0 for none")
    return np.ascontiguousarray(labels, dtype=np.int32)


def _pairs_of_folders(folder: Path) -> list[tuple[str, Path, Path]]:
    """Split, folder of images and folder of label maps."""
    images, maps = _inside(folder, IMAGE_FOLDERS), _inside(folder, MAP_FOLDERS)
    if images is not None and maps is not None:
        splits = {path.name: path for path in _folders(images) if path.name.lower() in SPLIT_NAMES}
        if not splits:
            return [("", images, maps)]
        return [
            (SPLIT_NAMES[name.lower()], path, maps / name)
            for name, path in sorted(splits.items())
            if (maps / name).is_dir() or SPLIT_NAMES[name.lower()] == "test"
        ]
    found = []
    for part in _folders(folder):
        inner = _inside(part, IMAGE_FOLDERS), _inside(part, MAP_FOLDERS)
        if part.name.lower() in SPLIT_NAMES and inner[0] is not None and inner[1] is not None:
            found.append((SPLIT_NAMES[part.name.lower()], inner[0], inner[1]))
    return found


def _named(images: Path, maps: Path, problems: Problems) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and label maps by their common name; the map's may have a mark such as `_mask`."""
    image_files = _by_name(images, problems)
    found = _by_name(maps, problems) if maps.is_dir() else {}
    return image_files, {_without_mark(name, image_files): path for name, path in found.items()}


def _marked(folder: Path) -> dict[str, Path]:
    """Label maps `NAME_mask.png` that lie beside images `NAME.*` or `NAME_img.*`, by name."""
    names = {path.stem for path in _files(folder)}
    found = {}
    for path in _files(folder):
        name = _without_mark(path.stem, names)
        if name != path.stem and path.suffix.lower() in MAP_ENDINGS:
            found[name] = path
    return found


def _without_mark(name: str, images: dict[str, Path] | set[str]) -> str:
    if name in images and not name.endswith(MAP_MARKS):
        return name
    for mark in MAP_MARKS:
        stem = name.removesuffix(mark)
        if stem != name and (stem in images or f"{stem}{IMAGE_MARK}" in images):
            return stem
    return name


def _by_name(folder: Path, problems: Problems) -> dict[str, Path]:
    named: dict[str, list[Path]] = defaultdict(list)
    for path in _files(folder):
        named[path.stem].append(path)
    for name, same in named.items():
        if len(same) > 1:
            problems.add(folder.name, f"several files are named {name}: {', '.join(p.name for p in same)}", "keep one")
    return {name: same[0] for name, same in named.items()}


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURE_ENDINGS and path.is_file() and not is_hidden(path):
            yield path


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path))


def _inside(folder: Path, names: tuple[str, ...]) -> Path | None:
    present = {path.name.lower(): path for path in _folders(folder)}
    return next((present[name] for name in names if name in present), None)


def _table(folder: Path) -> dict[str, dict[str, str]]:
    """Rows of `images.csv` by file name, if there is such a table."""
    path = folder / TABLE
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no CSV table in UTF-8 ({error}). Cure: export it as CSV, UTF-8") from None
    if rows and FILE_COLUMN not in rows[0]:
        return {}
    columns = [name for name in (rows[0] if rows else {}) if name and name != FILE_COLUMN]
    return {Path(row[FILE_COLUMN]).name: {name: row[name] or "" for name in columns} for row in rows}
