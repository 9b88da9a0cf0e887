"""Pictures of 8 bits that stay in their file until a transform says which part it wants, and how large.

A classifier sees a small box of most pictures at a fraction of their resolution. A JPEG is decoded at 1/2, 1/4 or 1/8
where that suffices (the inverse cosine transform then computes fewer pixels), only the box is copied, and it is resized
in 8 bits.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_ext.datasets.claimed_size import check_picture
from monai_ext.datasets.decoding_errors import DECODING_ERRORS
from monai_ext.errors import InputError
from monai_ext.transforms.box_resize import resize_box

EIGHT_BIT = (0.0, 255.0)
EXIF_ORIENTATION = 274
BITS_PER_SAMPLE = 258  # TIFF tag
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
WIDE_MODES = ("I", "F")  # and with them I;16 and its byte orders


class FilePicture:
    """A picture that Pillow decodes when a box is asked for; every box decodes it anew.

    Args:
        path: of the file.
        channels: 1, 3 or 4 (with alpha).

    Raises:
        InputError: the file is no picture, or is damaged.
    """

    def __init__(self, path: Path, channels: int) -> None:
        self.path = path
        self.channels = channels
        try:
            self.content = path.read_bytes()
            self._opened: Any = self._open()
            check_picture(path, self._opened)
            self.orientation = _orientation(self._opened)
        except InputError:
            raise
        except DECODING_ERRORS as error:
            raise damaged(path, error) from error
        self.full_range: tuple[float, float] | None = EIGHT_BIT
        self.is_wide = _is_wide(self._opened, self.content)  # more than 8 bits, for `wide_values`
        self.has_16_bits = self._opened.mode.startswith("I;16") or _png_depth(self.content) == 16
        self.bands = len(self._opened.getbands())
        width, height = self._opened.size
        self.size: tuple[int, ...] = (width, height) if self.orientation in SIDEWAYS else (height, width)
        if channels not in (1, 3, 4) and not self.is_wide:
            raise InputError(
                f"{path}: is a picture of mode {self._opened.mode}, the network takes {channels} channels. "
                "Cure: --channels 1 or 3, or files with that many channels"
            )

    def crop_resized(self, box: Sequence[int], size: Sequence[int], interpolation: str = "bilinear") -> torch.Tensor:
        top, left, bottom, right = (int(edge) for edge in box)
        try:
            picture, self._opened = self._opened or self._open(), None
            reduced = self._reduce(picture, (bottom - top, right - left), size)
            picture = self._upright(picture)
            if reduced > 1 and any(edge % reduced for edge in (top, left, bottom, right)):
                # edges within pixels of the reduced picture: Pillow resizes such boxes, torch only whole pixels
                picture = _fractional(_converted(picture, self.channels), box, reduced, size, interpolation)
                top, left, bottom, right, reduced = 0, 0, *size, 1
            top, left, bottom, right = (edge // reduced for edge in (top, left, bottom, right))
            if (left, top, right, bottom) != (0, 0, *picture.size):
                picture = picture.crop((left, top, right, bottom))
            # a copy of a few hundred kilobytes: the array that Pillow exports may not be written to
            pixels = torch.from_numpy(np.array(_converted(picture, self.channels)))
        except DECODING_ERRORS as error:
            raise damaged(self.path, error) from error
        image = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        whole = (0, 0, bottom - top, right - left)
        # resizing in the layout of the file (channels last) is where torch is fast; the network's input is contiguous
        return resize_box(image, whole, size, interpolation).contiguous()

    def wide_values(self) -> np.ndarray | None:
        """All values `[H, W]` float32 of a grey picture of more than 8 bits; None if Pillow would cut them to 8."""
        try:
            picture, self._opened = self._opened or self._open(), None
            if not picture.mode.startswith(WIDE_MODES):
                return None
            return np.array(self._upright(picture), dtype=np.float32)
        except DECODING_ERRORS as error:
            raise damaged(self.path, error) from error

    def _open(self) -> Any:
        from PIL import Image

        with any_size():
            return Image.open(io.BytesIO(self.content))

    def _reduce(self, picture: Any, edges: Sequence[int], size: Sequence[int]) -> int:
        """Have a JPEG decoded at a fraction that is no smaller than what is asked for; returns the divisor."""
        if picture.format not in ("JPEG", "MPO"):
            return 1
        divisor = next((d for d in (8, 4, 2) if all(e >= d * n for e, n in zip(edges, size, strict=True))), 1)
        width, height = picture.size
        # grey from colours: luma is a channel of the file, and the two others are then not decoded
        picture.draft("L" if self.channels == 1 else None, (width // divisor, height // divisor))
        return divisor

    def _upright(self, picture: Any) -> Any:
        if self.orientation == 1:
            return picture
        from PIL import ImageOps

        return ImageOps.exif_transpose(picture)


@contextmanager
def any_size() -> Iterator[None]:
    """Lift Pillow's limit of pixels, far below a slide scanner's pictures; `claimed_size` has its own."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _converted(picture: Any, channels: int) -> Any:
    """The pixels in a mode of that many channels; transparency laid over black unless it is asked for."""
    wanted = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    if picture.mode == wanted:
        return picture
    if channels != 4 and ("A" in picture.getbands() or "transparency" in picture.info):
        from PIL import Image

        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema()[0] < 255:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
        picture = picture.convert("RGB")
    elif picture.mode not in ("L", "RGB") and channels == 1:
        picture = picture.convert("RGB")
    return picture.convert(wanted)


def _is_wide(picture: Any, content: bytes) -> bool:
    """Whether the pixels have more than 8 bits."""
    if picture.format == "TIFF" and max(picture.tag_v2.get(BITS_PER_SAMPLE, (8,))) > 8:
        return True
    return picture.mode.startswith(WIDE_MODES) or _png_depth(content) == 16


def _png_depth(content: bytes) -> int:
    """Bits per channel of a PNG, byte 24 of the file; 0 for others."""
    return content[24] if content[:4] == b"\x89PNG" and len(content) > 24 else 0


def _orientation(picture: Any) -> int:
    """EXIF orientation; TIFF is turned by Pillow itself."""
    if picture.format == "TIFF" or "exif" not in picture.info:
        return 1
    found = picture.getexif().get(EXIF_ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def _fractional(picture: Any, box: Sequence[int], divisor: int, size: Sequence[int], interpolation: str) -> Any:
    from PIL import Image

    width, height = picture.size
    top, left, bottom, right = (edge / divisor for edge in box)
    method = Image.Resampling[interpolation.upper()]
    return picture.resize((size[1], size[0]), method, box=(left, top, min(right, width), min(bottom, height)))


def damaged(path: Path, error: BaseException) -> InputError:
    """The error that a person sees for what a library says about a file."""
    if isinstance(error, InputError):
        return error
    reason = (str(error).strip() or type(error).__name__).splitlines()[-1].replace(f"{io.BytesIO.__name__}", "file")
    return InputError(
        f"{path}: cannot be read, the file is damaged, incomplete or no picture ({reason}). "
        "Cure: copy or export it again, or remove it"
    )
