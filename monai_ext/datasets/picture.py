"""Pictures and volumes of which any box can be had at any size, whatever kind of file they are in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from monai_ext.datasets.decoding_errors import DECODING_ERRORS
from monai_ext.datasets.file_names import NIFTI_ENDINGS, image_ending, is_dicom
from monai_ext.datasets.file_picture import EIGHT_BIT, FilePicture, damaged
from monai_ext.errors import InputError
from monai_ext.transforms.box_resize import resize_box

SIXTEEN_BIT = (0.0, 65535.0)
TIFF_ENDINGS = (".tif", ".tiff")
ITK_ONLY = (".nrrd", ".nhdr", ".mha", ".mhd")
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as JPEG and Pillow define grey


@runtime_checkable
class Picture(Protocol):
    """A picture or volume of which any box can be had at any size.

    Attributes:
        size: spatial shape, `(H, W)` or `(D, H, W)`, as it is to be seen (upright).
        channels: of what `crop_resized` returns.
        full_range: values of black and white in the file's kind of pixel, `(0, 255)` or `(0, 65535)`; None where the
            kind does not tell (floating point, CT numbers).
    """

    size: tuple[int, ...]
    channels: int
    full_range: tuple[float, float] | None

    def crop_resized(self, box: Sequence[int], size: Sequence[int], interpolation: str = "bilinear") -> torch.Tensor:
        """Cut `box` out (first pixels of all axes, then those after the last) and resize it to `size`.

        Returns:
            `[C, *size]`; uint8 for pictures of 8 bits, else float32.

        Raises:
            InputError: the file is damaged.
        """
        ...


def open_picture(path: str | Path, channels: int, spatial_dims: int = 2) -> Picture:
    """Open a file without decoding it (8-bit pictures) or by reading all of it (everything else).

    Channels are brought to the number asked for: grey is repeated for 3, colours become luma (ITU-R BT.601) for 1;
    palettes and bits become the colours they stand for; transparent pixels are laid over black, except for 4 channels,
    where alpha is the fourth. CMYK and the like become RGB. With any other number the file must have just that.
    EXIF orientation is honoured. DICOM pictures come in rows and columns as stored, MONOCHROME1 turned so that air is
    dark; volumes in canonical (RAS+) orientation as `image_files.read_image` gives them.

    Args:
        path: PNG, JPEG, TIFF, BMP or whatever Pillow reads; DICOM, NIfTI, NRRD, MetaImage; for volumes also a folder
            with a DICOM series.
        channels: of the network's input.
        spatial_dims: 2 or 3.

    Raises:
        InputError: the file is missing, damaged, cannot be brought to these channels or dimensions, or does not fit
            into memory.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: file does not exist. Cure: check the name, or restore the file")
    try:
        return _opened(path, channels, spatial_dims)
    except (MemoryError, RuntimeError) as error:  # the second is what torch raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: its pixels cannot be held in memory ({reason:.160}). Cure: more memory, or a smaller picture"
        ) from error


def _opened(path: Path, channels: int, spatial_dims: int) -> Picture:
    if spatial_dims == 3:
        return TensorPicture(_with_channels(_volume(path), channels, path))
    if spatial_dims != 2:
        raise InputError(f"{path}: pictures have 2 or 3 spatial axes, not {spatial_dims}. Cure: spatial_dims 2 or 3")
    if image_ending(path) in (*NIFTI_ENDINGS, *ITK_ONLY) or is_dicom(path):
        values, full_range = _plane(path)
        return TensorPicture(_with_channels(values, channels, path), full_range)
    try:
        picture = FilePicture(path, channels)
    except InputError:
        if path.suffix.lower() not in TIFF_ENDINGS or not path.stat().st_size:
            raise
        values, full_range = _plane(path)  # TIFF of kinds that Pillow does not know
        return TensorPicture(_with_channels(values, channels, path), full_range)
    if not picture.is_wide:
        return picture
    grey = picture.wide_values()
    if grey is None:
        return TensorPicture(_with_channels(_wide_colours(path, picture.bands), channels, path), SIXTEEN_BIT)
    full_range = SIXTEEN_BIT if picture.has_16_bits else None
    return TensorPicture(_with_channels(torch.from_numpy(grey)[None], channels, path), full_range)


class TensorPicture:
    """A picture or volume in memory.

    Args:
        image: `[C, *spatial]` uint8 or float32.
        full_range: see `Picture`.
    """

    def __init__(self, image: torch.Tensor, full_range: tuple[float, float] | None = None) -> None:
        self.image = image
        self.size = tuple(image.shape[1:])
        self.channels = int(image.shape[0])
        self.full_range = EIGHT_BIT if image.dtype == torch.uint8 else full_range

    def crop_resized(self, box: Sequence[int], size: Sequence[int], interpolation: str = "bilinear") -> torch.Tensor:
        return resize_box(self.image, box, size, interpolation)


def _with_channels(image: torch.Tensor, channels: int, path: Path) -> torch.Tensor:
    found = image.shape[0]
    if found == channels:
        return image
    if found == 1 and channels == 3:
        return image.expand(3, *image.shape[1:]).contiguous()
    if found == 3 and channels == 1:
        luma = torch.tensor(LUMA).view(3, *[1] * (image.ndim - 1))
        return (image.float() * luma).sum(0, keepdim=True)
    raise InputError(
        f"{path}: holds {found} channels, the network takes {channels}. Cure: files with {channels} channels; only "
        "grey and RGB are converted into each other"
    )


def _volume(path: Path) -> torch.Tensor:
    """`[C, D, H, W]` float32, canonical."""
    from monai_ext.datasets.image_files import read_image

    image, _ = read_image([path])
    return torch.from_numpy(image)


def _plane(path: Path) -> tuple[torch.Tensor, tuple[float, float] | None]:
    """`[C, H, W]` float32 of a file that Pillow does not read (wholly), and its full range."""
    from monai_ext.datasets.image_files import read_image

    if image_ending(path) in NIFTI_ENDINGS:
        image, _ = read_image([path])
        planes = [axis for axis in (1, 2, 3) if image.shape[axis] == 1]
        if not planes:
            raise InputError(
                f"{path}: is a volume of {image.shape[1:]} voxels, the network takes pictures. "
                "Cure: one slice per file, or a model of volumes"
            )
        return torch.from_numpy(np.ascontiguousarray(image.squeeze(planes[0]))), None
    from monai_ext.datasets.itk_files import read_with_itk

    try:
        stored, geometry = read_with_itk(path)
    except InputError as error:
        raise error if str(error).startswith(str(path)) else InputError(f"{path}: {error}") from None
    except DECODING_ERRORS as error:
        raise damaged(path, error) from error
    axes = len(geometry.file_shape)
    if axes == 3 and stored.shape[2] != 1:
        raise InputError(
            f"{path}: holds {stored.shape[2]} slices, the network takes pictures. "
            "Cure: one slice per file, or a model of volumes"
        )
    image = stored[:, :, 0] if axes == 3 else stored
    image = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    values = np.ascontiguousarray(image.swapaxes(1, 2), dtype=np.float32)
    if is_dicom(path):
        values = _dark_air(path, values)
    eight_bit, wide = stored.dtype == np.uint8, stored.dtype == np.uint16
    return torch.from_numpy(values), EIGHT_BIT if eight_bit else SIXTEEN_BIT if wide else None


def _wide_colours(path: Path, bands: int) -> torch.Tensor:
    """`[3, H, W]` float32 of 16 bits per colour, without transparency."""
    import itk

    from monai_ext.datasets.itk_files import check_itk_claim

    check_itk_claim(path)
    try:
        image = itk.imread(str(path), itk.Vector[itk.F, bands])
    except DECODING_ERRORS as error:
        raise damaged(path, error) from error
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(itk.array_from_image(image)[..., :3], -1, 0)))


def _dark_air(path: Path, values: np.ndarray) -> np.ndarray:
    """DICOM stores radiographs in either sense: MONOCHROME1 means that the least value is white."""
    import itk

    reader = itk.GDCMImageIO.New()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    tags = reader.GetMetaDataDictionary()
    meaning = str(tags["0028|0004"]) if tags.HasKey("0028|0004") else ""
    return values.max() + values.min() - values if meaning.strip() == "MONOCHROME1" else values
