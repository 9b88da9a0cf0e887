"""How large a pixel of a picture is, as its file states it."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from monai_ext.datasets.file_names import NIFTI_ENDINGS, image_ending, is_dicom
from monai_ext.datasets.file_picture import EXIF_ORIENTATION, SIDEWAYS, any_size

DESCRIPTION, X_RESOLUTION, Y_RESOLUTION, UNIT = 270, 282, 283, 296
NO_UNIT, INCH, CENTIMETRE = 1, 2, 3
CENTIMETRES = {INCH: 2.54, CENTIMETRE: 1.0}
OME_CENTIMETRES = {"nm": 1e-7, "µm": 1e-4, "μm": 1e-4, "um": 1e-4, "mm": 0.1, "cm": 1.0, "m": 100.0}
ITK_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")
Rational = tuple[int, int]


@dataclass(frozen=True)
class PictureResolution:
    """Pixels per unit of length, as TIFF states it.

    Attributes:
        x, y: numerator and denominator, below 2^32.
        unit: 1 none or that of the description, 2 inch, 3 centimetre.
        description: of ImageJ, where it names the unit; else empty.
    """

    x: Rational
    y: Rational
    unit: int
    description: str = ""

    @property
    def per_centimetre(self) -> tuple[float, float] | None:
        """Pixels (y, x); None if the unit is not known."""
        if self.unit not in CENTIMETRES:
            return None
        length = CENTIMETRES[self.unit]
        return self.y[0] / self.y[1] / length, self.x[0] / self.x[1] / length

    @classmethod
    def from_spacing(cls, y: float, x: float) -> PictureResolution:
        """From edges of a pixel in centimetres."""
        return cls(_rational(1 / x), _rational(1 / y), CENTIMETRE)


def picture_resolution(path: str | Path) -> PictureResolution | None:
    """Resolution that a file states, along the axes of the picture as it is shown; None if it states none.

    TIFF: its tags, with the unit that ImageJ puts into the description, or the pixel size in OME's. PNG, JPEG and BMP:
    pixels per length. DICOM, NIfTI, NRRD and MetaImage: spacing in millimetres. A file that cannot be read states none.
    """
    path = Path(path)
    try:
        if image_ending(path) in (*NIFTI_ENDINGS, *ITK_ENDINGS) or is_dicom(path):
            y, x = _spacing(path)
            return PictureResolution.from_spacing(y / 10, x / 10)
        from PIL import Image

        with any_size(), warnings.catch_warnings(), Image.open(path) as picture:
            warnings.simplefilter("ignore")
            found = _of_tiff(picture.tag_v2) if picture.format == "TIFF" else _of_picture(picture)  # type: ignore[attr-defined]
            turned = picture.getexif().get(EXIF_ORIENTATION, 1) in SIDEWAYS
    except Exception:  # a damaged header makes the libraries raise nearly anything
        return None
    return PictureResolution(found.y, found.x, found.unit, found.description) if found and turned else found


def _of_tiff(tags: Any) -> PictureResolution | None:
    # Pillow takes every byte for a character, OME's text is UTF-8
    description = str(tags.get(DESCRIPTION, "")).encode("latin-1", "replace").decode("utf-8", "replace")
    if "<OME" in description:
        sizes = [_ome_size(description, axis) for axis in "YX"]
        if all(sizes):
            return PictureResolution.from_spacing(*sizes)
    if X_RESOLUTION not in tags or Y_RESOLUTION not in tags:
        return None
    x, y = (_rational(tags[tag]) for tag in (X_RESOLUTION, Y_RESOLUTION))
    unit = int(tags.get(UNIT, INCH))
    # of ImageJ's description only the unit also holds for a label map
    kept = re.findall(r"^(?:ImageJ|unit)=.*$", description, re.MULTILINE) if description.startswith("ImageJ=") else []
    named = any(line.startswith("unit=") for line in kept)
    return PictureResolution(x, y, unit, "\n".join(kept) + "\n" if named else "")


def _of_picture(picture: Any) -> PictureResolution | None:
    dpi = picture.info.get("dpi")
    if not dpi or min(dpi) <= 0:
        return None
    return PictureResolution(_rational(dpi[0]), _rational(dpi[1]), INCH)


def _ome_size(description: str, axis: str) -> float:
    """Edge of a pixel in centimetres; 0 if it is not stated."""
    size = re.search(rf'PhysicalSize{axis}="([^"]+)"', description)
    unit = re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', description)
    return float(size[1]) * OME_CENTIMETRES.get(unit[1] if unit else "µm", 0.0) if size else 0.0


def _spacing(path: Path) -> tuple[float, float]:
    """Millimetres (y, x)."""
    if image_ending(path) in NIFTI_ENDINGS:
        import nibabel

        image = nibabel.load(path)
        zooms = image.header.get_zooms()[:3]  # type: ignore[attr-defined]
        return float(zooms[1]), float(zooms[0])
    import itk

    from monai_ext.datasets.itk_files import check_itk_claim

    check_itk_claim(path)  # ITK ends the process at numbers of axes that make no sense
    kind = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    kind.SetFileName(str(path))
    kind.ReadImageInformation()
    return float(kind.GetSpacing(1)), float(kind.GetSpacing(0))


def _rational(value: Any) -> Rational:
    """Numerator and denominator that fit into 32 bits.

    Raises:
        ValueError: not above 0.
    """
    top, bottom = getattr(value, "numerator", None), getattr(value, "denominator", None)
    fraction = Fraction(int(top), int(bottom)) if top is not None and bottom is not None else Fraction(float(value))
    # a float is the nearest of many fractions; the simplest of them is what was meant
    simple = fraction.limit_denominator(10**6)
    if simple <= 0 or simple.numerator >= 2**32:
        raise ValueError(f"a resolution of {value} is none")
    return simple.numerator, simple.denominator
