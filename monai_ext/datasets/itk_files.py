"""Formats other than NIfTI: NRRD, MetaImage, TIFF and DICOM series through ITK; PNG, JPEG and BMP through Pillow."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.datasets.claimed_size import check_claim, check_picture
from monai_ext.datasets.dicom_header import check_dicom
from monai_ext.datasets.file_names import is_dicom
from monai_ext.datasets.geometry import Geometry
from monai_ext.datasets.text_headers import check_text_header
from monai_ext.datasets.tiff_pages import TiffPage, check_slices, tiff_pages
from monai_ext.errors import InputError

SPACING_TOLERANCE = 0.01  # of the distance between slices
TIFF_ENDINGS = (".tif", ".tiff")
TEXT_HEADERS = (".nrrd", ".nhdr", ".mha", ".mhd")
JPEG_ENDINGS = (".jpg", ".jpeg")
PICTURE_ENDINGS = (".png", *JPEG_ENDINGS, ".bmp", *TIFF_ENDINGS)
INDEXED_MODES = ("1", "P", "PA")  # ITK turns bits and palette indices into colours, or cannot read them
EXIF_ORIENTATION = 274
SMALL_DEPTHS = {2: 85, 4: 17}  # grey PNG of 2 and 4 bits are stretched to 0..255 when decoded


def read_with_itk(path: Path, as_label: bool = False) -> tuple[np.ndarray, Geometry]:
    """Read a file, or a folder with one DICOM series.

    Pictures get the axes that ITK gives them (x to the left, y to the back) whichever library reads them. Print
    resolutions in PNG, JPEG and BMP are no size of anything in the body: their pixels are 1 mm.

    Args:
        path: file or folder.
        as_label: palettes give their indices and bits give 0 and 1, not colours.

    Returns:
        Array `[x, y, z]` or `[x, y, z, C]` (`[x, y]`, `[x, y, C]` for 2D files) in file order and the geometry (RAS).

    Raises:
        InputError: the folder holds no DICOM file, several series, or slices that are not equally spaced; a picture
            with transparent pixels or one that viewers show turned.
    """
    if path.is_file() and path.suffix.lower() in PICTURE_ENDINGS:
        found = _read_picture(path, as_label)
        if found is not None:
            return found
    import itk

    files = check_one_series(path) if path.is_dir() else [str(path)]
    check_itk_claim(path)
    try:
        image = itk.imread(files if len(files) > 1 else files[0])
    except TypeError:  # ITK's Python has no class for this kind of pixel
        raise InputError(
            f"{path}: pixels of this kind cannot be read. Cure: save grey values (8 or 16 bit, float) or 8-bit colours"
        ) from None
    deviation = "ITK_non_uniform_sampling_deviation"
    if path.is_dir() and image.GetMetaDataDictionary().HasKey(deviation):
        apart = float(image.GetMetaDataDictionary()[deviation])
        # positions are decimal strings, so even a perfect series deviates a little; a missing slice by a whole spacing
        if apart > SPACING_TOLERANCE * float(image.GetSpacing()[2]):
            raise InputError(
                f"{path}: slices of the series are not equally spaced, deviation {apart:.3g} mm. "
                "Cure: restore missing slices; remove scouts and repeated slices"
            )
    header = image.GetMetaDataDictionary()
    try:
        for name in header.GetKeys():
            if not name.startswith("ITK_"):  # ITK's own, of any type
                header[name]
    except (TypeError, UnicodeError):  # names of fields that are no text
        raise InputError(f"{path}: its header is damaged. Cure: copy or export it again") from None
    view = itk.array_view_from_image(image, keep_axes=False).T  # channels come first then
    if image.GetNumberOfComponentsPerPixel() > 1:
        view = np.moveaxis(view, 0, -1)
    array = np.array(view)  # a copy: the original is memory of the ITK image
    spatial = tuple(int(n) for n in itk.size(image))[:3]
    if len(spatial) not in (2, 3) or array.ndim > 4 or 0 in array.shape:
        raise InputError(f"{path}: shape {array.shape} is not 2D or 3D with channels. Cure: store one volume per file")
    return array, Geometry.from_affine(_affine(image, len(spatial)), spatial)


def _affine(image: Any, dims: int) -> np.ndarray:
    """`4 x 4`: voxel to RAS mm, of the first `dims` axes. A 2D image becomes a volume of one slice, 1 mm thick."""
    import itk

    affine = np.eye(4)
    axes = np.asarray(itk.array_from_matrix(image.GetDirection()), dtype=np.float64)
    affine[:dims, :dims] = axes[:dims, :dims] * np.asarray(image.GetSpacing(), dtype=np.float64)[:dims]
    affine[:dims, 3] = np.asarray(image.GetOrigin(), dtype=np.float64)[:dims]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # ITK's x and y point to left and back


def check_itk_claim(path: Path) -> None:
    """Refuse what ITK would take memory for, from the headers alone.

    Raises:
        InputError: a file or series claims more than the limit of `claimed_size`, or more than its bytes can hold.
    """
    if path.is_file() and path.suffix.lower() in TEXT_HEADERS:
        check_text_header(path)
    elif path.is_file() and path.suffix.lower() in TIFF_ENDINGS:
        try:
            pages = tiff_pages(path)
        except InputError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise InputError(f"{path}: cannot be read, {reason}") from None
        check_slices(path, pages)
        sample_bytes = max(max(page.bits for page in pages) // 8, 1)
        check_claim(path, (len(pages), *(max(edges) for edges in zip(*map(_edges, pages), strict=True))), sample_bytes)
    elif path.is_dir() or is_dicom(path):
        check_dicom(path)


def _edges(page: TiffPage) -> tuple[int, int, int]:
    return page.height, page.width, page.channels


def check_one_series(folder: Path) -> list[str]:
    """Require exactly one DICOM series in a folder; its files, in the order of their positions.

    Raises:
        InputError: no series, or several, which are listed with their number of files.
    """
    import itk

    if not any(is_dicom(file) for file in folder.iterdir()):
        raise InputError(f"{folder}: is a folder without DICOM files. Cure: name an image file or a DICOM folder")
    names = itk.GDCMSeriesFileNames.New()
    names.SetGlobalWarningDisplay(False)
    names.SetUseSeriesDetails(True)
    names.AddSeriesRestriction("0008|0021")
    names.SetDirectory(str(folder))
    series = [(uid, len(names.GetFileNames(uid))) for uid in names.GetSeriesUIDs()]
    if len(series) != 1:
        listed = "; ".join(f"{uid} ({count} files)" for uid, count in series) or "none readable"
        raise InputError(
            f"{folder}: must hold one DICOM series, found {len(series)}: {listed}. "
            "Cure: move each series to a folder of its own and give that folder"
        )
    return [str(file) for file in names.GetFileNames(series[0][0])]


def picture_channels(path: Path) -> int | None:
    """Channels that a picture has when read as an image, from its header; None if it is no picture or unreadable."""
    if path.suffix.lower() not in PICTURE_ENDINGS or not path.is_file():
        return None
    from PIL import UnidentifiedImageError

    try:
        with _opened(path) as picture:
            if picture.mode in ("P", "PA"):
                return int(_colours_of_palette(picture).shape[-1])
            return len([band for band in picture.getbands() if band != "A"])
    except (UnidentifiedImageError, OSError, ValueError):
        return None


def has_alpha(path: Path) -> bool:
    """Whether a picture carries transparency, which is left away when it is opaque everywhere."""
    if path.suffix.lower() not in PICTURE_ENDINGS or not path.is_file():
        return False
    with _opened(path) as picture:
        return "A" in picture.getbands() or "transparency" in picture.info


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a picture of any size: the limit that Pillow sets is meant for servers that are sent pictures."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                yield picture
    except SyntaxError as error:  # what Pillow raises for a damaged PNG
        raise ValueError(str(error)) from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _read_picture(path: Path, as_label: bool) -> tuple[np.ndarray, Geometry] | None:
    """Picture as `[x, y]`, `[x, y, z]` or with channels last; None leaves it to ITK."""
    from PIL import UnidentifiedImageError

    is_tiff = path.suffix.lower() in TIFF_ENDINGS
    try:
        with _opened(path) as picture:
            if is_tiff and picture.mode not in INDEXED_MODES:
                return None
            check_picture(path, picture)  # before EXIF data, for which Pillow decodes a whole PNG
            turned = 1 if is_tiff else picture.getexif().get(EXIF_ORIENTATION, 1)
            if turned not in (0, 1):
                raise InputError(
                    f"{path}: asks viewers to turn it (EXIF orientation {turned}), so image and mask may not fit. "
                    "Cure: save both upright and without EXIF data"
                )
            if path.suffix.lower() == ".png" and _png_depth(path) == 16 and picture.mode in ("RGB", "RGBA"):
                pages, spacing = [_wide_colours(path, len(picture.getbands()))], (1.0, 1.0)
            else:
                spacing = _tiff_spacing(picture) if is_tiff else (1.0, 1.0)
                pages, count = [], len(tiff_pages(path)) if is_tiff else 1
                check_picture(path, picture, count)
                for page in range(count):
                    if page:
                        picture.seek(page)
                    pages.append(_pixels(path, picture, as_label))
    except UnidentifiedImageError:
        if is_tiff:
            return None
        raise ValueError("not a picture, or its header is damaged") from None
    if len({page.shape for page in pages}) > 1:
        raise InputError(f"{path}: its pages differ in size. Cure: store one file per page, or pages of one size")
    stored = pages[0] if len(pages) == 1 else np.stack(pages, axis=2)
    size = stored.shape[: 2 if len(pages) == 1 else 3]
    return stored, Geometry.from_affine(np.diag([-spacing[0], -spacing[1], 1.0, 1.0]), size)


def _pixels(path: Path, picture: Any, as_label: bool) -> np.ndarray:
    """Pixels of the present page, `[x, y]` or `[x, y, C]`, without transparency."""
    transparency = not as_label and ("A" in picture.getbands() or "transparency" in picture.info)
    if transparency and np.asarray(picture.convert("RGBA").getchannel("A")).min() < 255:
        raise InputError(
            f"{path}: has transparent pixels, whose colour is undefined. Cure: flatten it onto one background "
            "colour and save it without transparency"
        )
    if picture.mode == "P":
        pixels = np.asarray(picture) if as_label else _colours_of_palette(picture)
    elif picture.mode in ("PA", "LA", "RGBA"):
        pixels = np.asarray(picture.convert({"PA": "RGB", "LA": "L", "RGBA": "RGB"}[picture.mode]))
    elif picture.mode == "1":
        pixels = np.asarray(picture).astype(np.uint8)
    else:
        pixels = np.asarray(picture)
        if as_label and picture.mode == "L" and path.suffix.lower() == ".png":
            pixels = pixels // SMALL_DEPTHS.get(_png_depth(path), 1)
    return np.array(np.swapaxes(pixels, 0, 1))


def _colours_of_palette(picture: Any) -> np.ndarray:
    """`[H, W, 3]` uint8, or `[H, W, 1]` if all colours of the palette that are used are grey."""
    colours = np.asarray(picture.convert("RGB"))
    grey = (colours[..., :1] == colours).all()
    return colours[..., :1] if grey else colours


def _png_depth(path: Path) -> int:
    """Bits per channel, byte 24 of every PNG file."""
    with path.open("rb") as file:
        return file.read(25)[-1]


def _wide_colours(path: Path, channels: int) -> np.ndarray:
    """`[x, y, 3]` float32 of a PNG with 16 bits per colour, which Pillow would cut to 8."""
    import itk

    image = itk.imread(str(path), itk.Vector[itk.F, channels])
    return np.array(np.swapaxes(itk.array_from_image(image), 0, 1))[..., :3]


def _tiff_spacing(picture: Any) -> tuple[float, float]:
    """Pixel size (x, y) in mm as ITK takes it from the tags for resolution; 1 without a unit."""
    unit = {2: 25.4, 3: 10.0}.get(int(picture.tag_v2.get(296, 1)))  # inch, cm
    resolution = [float(picture.tag_v2.get(tag, 0)) for tag in (282, 283)]
    if unit is None or min(resolution) <= 0:
        return 1.0, 1.0
    return unit / resolution[0], unit / resolution[1]
