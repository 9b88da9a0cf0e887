"""A labelled stack of EM slices in the form of the ISBI 2012 challenge: three multi-page TIFF files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monai_ext.datasets.claimed_size import check_claim
from monai_ext.datasets.tiff_pages import TiffPage, check_slices, tiff_pages
from monai_ext.errors import InputError, Problems

VOLUME, LABELS, TEST = FILES = ("train-volume.tif", "train-labels.tif", "test-volume.tif")
SHOWN = 5
ENDINGS = (".tif", ".tiff")
KINDS = ("8-bit unsigned numbers", "16-bit unsigned numbers", "16-bit signed numbers", "32-bit floats")
ITK_PREFIX = re.compile(r"^ITK ERROR: \w+\(0x[0-9a-f]+\): ")  # the number differs from run to run


@dataclass(frozen=True)
class EmStack:
    """A stack as its files hold it.

    Attributes:
        folder: of the files.
        images: `[N, H, W]` labelled slices, uint8, uint16 or float32.
        labels: `[N, H, W]` uint8: 0 membrane, 1 background.
        test: `[M, H', W']` slices without labels.
    """

    folder: Path
    images: np.ndarray
    labels: np.ndarray
    test: np.ndarray

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def slice_names(self) -> tuple[str, ...]:
        """`slice 00`, `slice 01`, ... of the labelled slices, numbered as their pages from 0."""
        digits = max(2, len(str(len(self.images) - 1)))
        return tuple(f"slice {i:0{digits}d}" for i in range(len(self.images)))


def read_em_stack(folder: str | Path) -> EmStack:
    """Read and check the three files of a stack.

    They have exactly the names of `FILES`; a file that differs only in case or ends in `.tiff` is pointed out.

    Raises:
        InputError: lists every problem of the folder: missing files, files that are cut off or no grey TIFFs, volume
            and labels of different sizes, labels other than 0 and 255 (or 0 and 1), values that are not finite.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: dataset folder does not exist. Cure: the folder of {', '.join(FILES)}")
    problems = Problems(f"EM stack {folder}")
    arrays: dict[str, np.ndarray] = {}
    for name in FILES:
        path = folder / name
        if not path.is_file():
            similar = _similar(folder, name)
            what = f"is missing, but {similar} is there" if similar else "is missing"
            cure = f"rename {similar} to {name}" if similar else f"a stack has the files {', '.join(FILES)}"
            problems.add(name, what, cure)
            continue
        try:
            arrays[name] = read_em_images(path)
        except InputError as error:
            what, _, cure = str(error).removeprefix(f"{path}: ").partition(". Cure: ")
            problems.add(name, what, cure)
    if LABELS in arrays:
        _check_labels(arrays[LABELS], problems)
        if VOLUME in arrays:
            _check_same_size(arrays[VOLUME], arrays[LABELS], problems)
    problems.raise_if_any()
    return EmStack(folder.resolve(), arrays[VOLUME], (arrays[LABELS] > 0).astype(np.uint8), arrays[TEST])


def read_em_images(path: str | Path) -> np.ndarray:
    """Pages of a grey TIFF `[N, H, W]`, uint8, uint16 or float32.

    Raises:
        InputError: the file cannot be opened, is no TIFF, is cut off, has colours, white as 0 or tiles, pages of
            different sizes or types, a type other than 8 or 16 bits or 32-bit floats, or values that are negative
            integers or not finite.
    """
    path = Path(path)
    pages = tiff_pages(path)
    _check_pages(path, pages)
    check_slices(path, pages)
    check_claim(path, (len(pages), pages[0].height, pages[0].width), pages[0].bits // 8)
    import itk

    with _quiet():
        try:
            image = itk.imread(str(path))
        except RuntimeError as error:
            reason = ITK_PREFIX.sub("", str(error).strip().splitlines()[-1].strip()).rstrip(".")
            cure = "copy it again from its source; if that does not help, save it as an uncompressed TIFF"
            raise InputError(f"{path}: cannot be read ({reason}). Cure: {cure}") from None
    array = np.array(itk.array_from_image(image))
    array = array[None] if array.ndim == 2 else array
    if array.shape != (len(pages), pages[0].height, pages[0].width):
        raise InputError(f"{path}: {len(pages)} pages were expected, {array.shape} read. Cure: save it as a plain TIFF")
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            page = int(np.flatnonzero(~np.isfinite(array).all((1, 2)))[0])
            raise InputError(f"{path}: page {page} holds NaN or infinite values. Cure: replace them")
    elif array.dtype.kind == "i":
        if array.min() < 0:
            raise InputError(f"{path}: holds negative values ({array.min()}). Cure: save it unsigned or as float")
        array = array.astype(np.uint16)
    return array


def value_range(images: np.ndarray) -> tuple[float, float]:
    """Grey values that become -1 and 1: 0 and 255 for 8 bits, else minimum and maximum of the training images.

    Raises:
        InputError: the images are constant.
    """
    if images.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(images.min()), float(images.max())
    if low == high:
        raise InputError(f"{VOLUME}: all pixels have the value {low:g}. Cure: check how the stack was exported")
    return low, high


def scaled(images: np.ndarray, grey_values: tuple[float, float]) -> np.ndarray:
    """Images as float32 with `grey_values` at -1 and 1; for 8 bits v / 127.5 - 1, as in NVIDIA's UNet Medical."""
    low, high = grey_values
    return (images.astype(np.float32) - np.float32(low)) / np.float32((high - low) / 2) - np.float32(1)


def _check_pages(path: Path, pages: list[TiffPage]) -> None:
    colours = next((i for i, page in enumerate(pages) if page.channels > 1 or page.palette), None)
    if colours is not None:
        kind = "a palette" if pages[colours].palette else f"{pages[colours].channels} channels"
        raise InputError(f"{path}: page {colours} has {kind}, slices are grey. Cure: convert it to grey values")
    sizes = {(page.height, page.width) for page in pages}
    if len(sizes) > 1:
        listed = ", ".join(f"{h} x {w}" for h, w in sorted(sizes)[:SHOWN])
        raise InputError(f"{path}: pages differ in size ({listed}). Cure: pages of one size")
    if any(page.tiled for page in pages):  # ITK turns tiles into colours of 8 bits
        raise InputError(f"{path}: is stored in tiles. Cure: save it in strips, as ImageJ does")
    # ITK reads all pages as the type of the first, and 16-bit floats as whole numbers
    kinds = [_kind(page) for page in pages]
    other = next((i for i, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is not None:
        what = f"page {other} holds {kinds[other]}, page 0 {kinds[0]}"
        raise InputError(f"{path}: {what}. Cure: save all pages as the same type")
    if kinds[0] not in KINDS:
        raise InputError(f"{path}: holds {kinds[0]}. Cure: save it with 8 or 16 bits, or as 32-bit floats")
    inverted = next((i for i, page in enumerate(pages) if page.inverted), None)
    if inverted is not None:
        what = f"page {inverted} shows 0 as white, so black and white may be swapped"
        raise InputError(f"{path}: {what}. Cure: save it without an inverting lookup table, black as 0")


def _kind(page: TiffPage) -> str:
    name = "floats" if page.floating else "signed numbers" if page.signed else "unsigned numbers"
    return f"{page.bits}-bit {name}"


def _similar(folder: Path, name: str) -> str:
    """A file that a person may mean by `name`: other case or ending; empty if there is none."""
    stem = Path(name).stem
    found = (path for path in folder.iterdir() if path.stem.lower() == stem and path.suffix.lower() in ENDINGS)
    return min((path.name for path in found if path.is_file()), default="")


def _check_labels(labels: np.ndarray, problems: Problems) -> None:
    values = np.unique(labels)
    allowed = (0, 255) if 255 in values else (0, 1)
    other = [value for value in values if value not in allowed]
    if not other:
        return
    page = int(np.flatnonzero((labels == other[0]).any((1, 2)))[0])
    listed = ", ".join(f"{value:g}" for value in other[:SHOWN]) + (", ..." if len(other) > SHOWN else "")
    what = f"has other values than 0 and 255 (or 0 and 1): {listed}, first on page {page}"
    problems.add(LABELS, what, "0 for membrane, 255 for background, nothing in between")


def _check_same_size(images: np.ndarray, labels: np.ndarray, problems: Problems) -> None:
    if len(images) != len(labels):
        what = f"has {len(labels)} pages, {VOLUME} has {len(images)}"
        problems.add(LABELS, what, "one page of labels for every page of the volume")
    if images.shape[1:] != labels.shape[1:]:
        sizes = [f"{array.shape[1]} x {array.shape[2]}" for array in (labels, images)]
        problems.add(LABELS, f"pages have {sizes[0]} pixels, those of {VOLUME} {sizes[1]}", "labels of the volume")


class _quiet:  # noqa: N801  reads as a word where it is used
    """Keeps ITK's warnings about tags it does not know off the terminal."""

    def __enter__(self) -> None:
        import itk

        self._before = itk.ProcessObject.GetGlobalWarningDisplay()
        itk.ProcessObject.SetGlobalWarningDisplay(False)

    def __exit__(self, *_: object) -> None:
        import itk

        itk.ProcessObject.SetGlobalWarningDisplay(self._before)
