"""What is in one image file: size, kind, digest of the pixels, statistics."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.datasets.claimed_size import check_picture
from monai_ext.datasets.decoding_errors import DECODING_ERRORS
from monai_ext.datasets.file_names import NIFTI_ENDINGS, image_ending, is_dicom
from monai_ext.errors import InputError

PERCENTILES = (0.5, 99.5)
ITK_ONLY = (".nrrd", ".nhdr", ".mha", ".mhd")
EIGHT_BIT, SIXTEEN_BIT = (0.0, 255.0), (0.0, 65535.0)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as JPEG and Pillow define grey
# modes of Pillow, and what they are called in a report
KINDS = {
    "1": "black and white",
    "L": "grey 8-bit",
    "LA": "grey 8-bit with alpha",
    "P": "palette",
    "PA": "palette with alpha",
    "RGB": "RGB 8-bit",
    "RGBA": "RGBA 8-bit",
    "I": "grey 32-bit",
    "F": "grey float",
}
GREY_MODES = ("1", "L", "LA", "La", "I", "F")
PLAIN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "F", "CMYK")


@dataclass(frozen=True)
class ImageFacts:
    """One image.

    Attributes:
        size: pixels (y, x) or voxels (z, y, x), as the image is shown (EXIF orientation heeded).
        kind: for a report, such as `RGB 8-bit`.
        channels: 1 for grey, 3 for colour; those of the file for volumes.
        full_range: values of black and white, (0, 255) or (0, 65535); None where the kind of pixel does not tell.
        digest: of the decoded pixels.
        moments: mean and mean square of each channel in the file's values, for colour also of grey (last); only where
            they were asked for.
        value_range: percentiles 0.5 and 99.5, with the moments.
        equal_channels: a colour picture whose channels are all equal, with the moments.
    """

    size: tuple[int, ...]
    kind: str
    channels: int
    full_range: tuple[float, float] | None
    digest: str
    moments: tuple[tuple[float, ...], ...] = ()
    value_range: tuple[float, float] = EIGHT_BIT
    equal_channels: bool = False

    def as_channels(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and mean square after conversion to grey (1) or RGB (3)."""
        mean, square = self.moments
        if channels == self.channels:
            return mean[:channels], square[:channels]
        return (mean[-1:] * channels, square[-1:] * channels)


def inspect_image(path: Path, with_statistics: bool = False) -> ImageFacts:
    """Decode one image completely.

    Raises:
        InputError: it cannot be read, or only in part; the message does not name it.
    """
    try:
        if path.stat().st_size == 0:
            raise InputError("is empty (0 bytes)")
        ending = image_ending(path)
        if ending in NIFTI_ENDINGS or ending in ITK_ONLY or is_dicom(path):
            facts, found = _inspect_volume(path)
        else:
            facts, found = _inspect_picture(path)
        if not with_statistics:
            return facts
        return _with_statistics(facts, _pixels(path, facts) if found is None else found)
    except InputError as error:
        raise InputError(str(error).removeprefix(f"{path}: ").partition(". Cure:")[0]) from None
    except DECODING_ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise InputError(f"cannot be read, the file is damaged or incomplete ({reason})") from None


def _inspect_picture(path: Path) -> tuple[ImageFacts, np.ndarray | None]:
    """Facts, and the pixels where they had to be brought to memory."""
    from PIL import ImageOps, UnidentifiedImageError

    try:
        with _opened(path) as picture:
            check_picture(path, picture)
            wide_png = picture.format == "PNG" and _png_depth(path) == 16
            ImageOps.exif_transpose(picture, in_place=True)  # decodes as well
            mode = picture.mode
            if mode not in PLAIN_MODES and not mode.startswith("I;16"):
                picture.convert("RGB")  # rare ones may have no way to colours: better known now than in the training
            seen = picture.convert("RGBA") if mode in ("P", "PA") else picture
            digest = hashlib.blake2b(f"{seen.mode} {picture.size}".encode(), digest_size=16)
            digest.update(seen.tobytes())
            size = (picture.size[1], picture.size[0])
    except UnidentifiedImageError:
        raise InputError("is no picture, or its header is damaged") from None
    if wide_png and mode in ("RGB", "RGBA"):
        pixels, _ = _in_memory(path)  # 16-bit colours, of which Pillow keeps 8 bits
        digest = hashlib.blake2b(f"{pixels.shape}".encode() + pixels.tobytes(), digest_size=16)
        return ImageFacts(size, "RGB 16-bit", 3, SIXTEEN_BIT, digest.hexdigest()), pixels
    grey = mode in GREY_MODES or mode.startswith("I;")
    sixteen = mode.startswith("I;16") or (mode == "I" and wide_png)
    full_range = SIXTEEN_BIT if sixteen else None if mode in ("I", "F") else EIGHT_BIT
    kind = "grey 16-bit" if sixteen else KINDS.get(mode, mode)
    return ImageFacts(size, kind, 1 if grey else 3, full_range, digest.hexdigest()), None


def _inspect_volume(path: Path) -> tuple[ImageFacts, np.ndarray | None]:
    """A file that Pillow does not read: of one slice it is a picture, else a volume."""
    from monai_ext.datasets.image_files import read_image

    nifti, dicom = image_ending(path) in NIFTI_ENDINGS, is_dicom(path)
    full_range: tuple[float, float] | None = None
    if dicom:
        pixels, full_range = _in_memory(path)
        kind, pixels = "DICOM", pixels[:1] if (pixels == pixels[:1]).all() else pixels
    else:
        pixels, _ = read_image([path])
        kind = "NIfTI" if nifti else image_ending(path)[1:].upper()
        slices = [axis for axis in (1, 2, 3) if pixels.shape[axis] == 1]
        pixels = pixels.squeeze(slices[0]) if slices else pixels
    finite = np.isfinite(pixels)
    if not finite.all():
        raise InputError(f"holds {finite.size - int(finite.sum())} values that are NaN or infinite")
    size = tuple(int(n) for n in pixels.shape[1:])
    digest = hashlib.blake2b(f"{kind} {pixels.shape}".encode(), digest_size=16)
    digest.update(pixels.tobytes())
    kind += " volume" if len(size) == 3 else " picture"
    return ImageFacts(size, kind, int(pixels.shape[0]), full_range, digest.hexdigest()), pixels


def _in_memory(path: Path) -> tuple[np.ndarray, tuple[float, float] | None]:
    """`[3, H, W]` float32 and full range of a picture that is not decoded by Pillow."""
    from monai_ext.datasets.picture import TensorPicture, open_picture

    picture = open_picture(path, 3, 2)
    assert isinstance(picture, TensorPicture)
    return picture.image.numpy(), picture.full_range


def _pixels(path: Path, facts: ImageFacts) -> np.ndarray:
    """`[C, H, W]` as the training will see it."""
    from monai_ext.datasets.picture import open_picture

    return open_picture(path, facts.channels, 2).crop_resized((0, 0, *facts.size), facts.size).numpy()


def _with_statistics(facts: ImageFacts, pixels: np.ndarray) -> ImageFacts:
    """Facts with the moments of pixels `[C, ...]`."""
    flat = pixels.reshape(pixels.shape[0], -1).astype(np.float32)
    equal = facts.channels == 3 and bool((flat[0] == flat[1]).all() and (flat[1] == flat[2]).all())
    if facts.channels == 3:
        flat = np.concatenate([flat, np.asarray(LUMA, dtype=np.float32)[None] @ flat])
    mean = flat.mean(axis=1, dtype=np.float64)
    square = np.square(flat).mean(axis=1, dtype=np.float64)
    low, high = EIGHT_BIT if facts.full_range == EIGHT_BIT else (float(v) for v in np.percentile(flat, PERCENTILES))
    moments = (tuple(mean.tolist()), tuple(square.tolist()))
    return replace(facts, moments=moments, value_range=(low, high), equal_channels=equal)


def _png_depth(path: Path) -> int:
    """Bits per channel, byte 24 of every PNG file."""
    with path.open("rb") as file:
        return file.read(25)[-1]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a picture of any size and refuse truncated ones, whatever another library has set."""
    from PIL import Image, ImageFile

    limit, truncated = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                yield picture
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = limit, truncated
