"""Read images and label maps in canonical orientation; write results in the orientation of the input."""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from monai_ext.atomic_files import replacing
from monai_ext.datasets.claimed_size import check_claim, check_deflated, gunzipped, gunzipped_start
from monai_ext.datasets.decoding_errors import DECODING_ERRORS
from monai_ext.datasets.file_names import IMAGE_ENDINGS, NIFTI_ENDINGS, image_ending
from monai_ext.datasets.geometry import Geometry, check_same_geometry, geometry_difference
from monai_ext.datasets.input_files import find_inputs
from monai_ext.errors import InputError, Problems

__all__ = [
    "Geometry",
    "check_same_geometry",
    "find_inputs",
    "geometry_difference",
    "read_image",
    "read_label",
    "write_label_map",
    "write_probabilities",
]

# header fields of a NIfTI input that decide where its voxels are; a result copies them bit by bit
QUATERNION_FIELDS = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
HEADER_BYTES = 544  # of NIfTI-2, the longer, with the mark whether extensions follow
MOST_BEFORE_VOXELS = 2**30  # bytes of header and extensions
DAMAGES: tuple[type[Exception], ...] = (ImageFileError, WrapStructError, HeaderDataError, *DECODING_ERRORS)
CODE_FIELDS = ("qform_code", "sform_code", "xyzt_units")


def read_image(paths: Sequence[Path]) -> tuple[np.ndarray, Geometry]:
    """Read all channels of one case.

    Args:
        paths: one file (3D, or 4D with channels last), one folder with a DICOM series, or one file per channel.

    Returns:
        Image `[C, D, H, W]` float32 in canonical (RAS+) orientation, and the geometry of the first file.

    Raises:
        InputError: a file is missing, damaged or has an invalid geometry; several channel files of which one is
            4D or lies on another grid than the first.
    """
    if not paths:
        raise InputError("no image file given. Cure: name one file, or one file per channel")
    if len(paths) == 1:
        return _read_channels(Path(paths[0]))
    channels, problems = [], Problems(f"channels of {Path(paths[0]).name}")
    first: Geometry | None = None
    for path in map(Path, paths):
        try:
            data, geometry = _read_channels(path)
        except InputError as error:
            problems.lines.append(str(error))
            continue
        if data.shape[0] != 1:
            problems.add(path, f"holds {data.shape[0]} channels where one file per channel is given", "split it")
        first = first or geometry
        difference = geometry_difference(first, geometry)
        if difference:
            problems.add(path, f"differs from the first channel in {difference}", "register and resample the channels")
        channels.append(data)
    problems.raise_if_any()
    assert first is not None
    return np.concatenate(channels), first


def read_label(path: Path) -> tuple[np.ndarray, Geometry]:
    """Read a label map.

    Returns:
        Labels `[D, H, W]` (uint8 if all values fit, else int16), canonical orientation, and the geometry.

    Raises:
        InputError: as `read_image`; more than one channel; values that are not integers or exceed int16; a JPEG file.
    """
    if Path(path).suffix.lower() in (".jpg", ".jpeg"):
        raise InputError(
            f"{path}: label maps cannot be JPEG, which changes values at edges. Cure: export the label as PNG from "
            "where it was drawn; a JPEG saved as PNG stays damaged"
        )
    stored, geometry = _read_stored(Path(path), as_float=False)
    if stored.ndim > len(geometry.file_shape):
        if stored.shape[-1] != 1 and len(geometry.file_shape) == 2:
            raise InputError(
                f"{path}: is a picture with {stored.shape[-1]} channels, a label map has one. Cure: save one "
                "grey value or palette index per class; if its channels are equal: python -m monai_ext dataset convert"
            )
        if stored.shape[-1] != 1:
            raise InputError(
                f"{path}: a label map must be 3D, but the file is 4D with shape {stored.shape}. "
                "Cure: store one integer per voxel; one-hot maps become integers by the index of the largest channel"
            )
        stored = stored[..., 0]
    if stored.dtype.kind == "f":
        rounded = np.rint(stored)
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            wrong = ~(np.abs(stored - rounded) <= 1e-4)  # rescaled integers miss by rounding; NaN fails as well
        if wrong.any():
            raise InputError(
                f"{path}: label values must be integers, found {stored[wrong][0]} in {int(wrong.sum())} voxels. "
                "Cure: save the labels as uint8; if they were resampled, resample with nearest neighbour"
            )
        stored = rounded
    low, high = int(stored.min(initial=0)), int(stored.max(initial=0))
    if low < -(2**15) or high >= 2**15:
        raise InputError(
            f"{path}: label values from {low} to {high} exceed the 16-bit range. Cure: number the classes from 0"
        )
    dtype = np.uint8 if low >= 0 and high < 256 else np.int16
    return np.ascontiguousarray(geometry.to_canonical(stored), dtype=dtype), geometry


def write_label_map(path: Path, labels: np.ndarray, geometry: Geometry) -> None:
    """Write labels `[D, H, W]` (canonical) as NIfTI with the affine, shape and axis order of the input file.

    The file is uint8 (uint16 from 256 labels on) and appears under its name only when complete.

    Raises:
        InputError: the name does not end in `.nii` or `.nii.gz`.
    """
    if labels.ndim != 3:
        raise ValueError(f"labels must be [D, H, W], got shape {labels.shape}")
    if labels.size and (labels.min() < 0 or labels.max() >= 2**16):
        raise ValueError(f"labels must lie in 0..65535, got {labels.min()}..{labels.max()}")
    dtype = np.uint8 if not labels.size or labels.max() < 256 else np.uint16
    _write_nifti(Path(path), geometry.to_file(labels.astype(dtype, copy=False)), geometry)


def write_probabilities(path: Path, probabilities: np.ndarray, geometry: Geometry) -> None:
    """Write `[C, D, H, W]` as 4D float32 NIfTI, channels last, with the affine and axis order of the input file.

    Raises:
        InputError: the name does not end in `.nii` or `.nii.gz`.
    """
    if probabilities.ndim != 4:
        raise ValueError(f"probabilities must be [C, D, H, W], got shape {probabilities.shape}")
    stored = geometry.to_file(np.moveaxis(probabilities.astype(np.float32, copy=False), 0, -1))
    if stored.ndim == 3:  # 2D input: keep the third axis so that channels stay the fourth
        stored = stored[:, :, None]
    _write_nifti(Path(path), stored, geometry)


def _read_channels(path: Path) -> tuple[np.ndarray, Geometry]:
    stored, geometry = _read_stored(path, as_float=True)
    if stored.ndim == len(geometry.file_shape):
        stored = stored[..., None]
    canonical = np.moveaxis(geometry.to_canonical(stored), -1, 0)
    return np.ascontiguousarray(canonical, dtype=np.float32), geometry


def _read_stored(path: Path, as_float: bool) -> tuple[np.ndarray, Geometry]:
    """Array `[x, y, z]` or `[x, y, z, C]` in file order, and the geometry."""
    if not path.exists():
        raise InputError(f"{path}: file does not exist. Cure: check the name, or restore the file")
    ending = image_ending(path)
    if not ending and not path.is_dir():
        raise InputError(f"{path}: unknown image format. Cure: convert to one of {', '.join(IMAGE_ENDINGS)}")
    try:
        if ending in NIFTI_ENDINGS and not path.is_dir():
            return _read_nifti(path, as_float)
        from monai_ext.datasets.itk_files import read_with_itk

        return read_with_itk(path, as_label=not as_float)
    except InputError as error:
        text = str(error)
        cure = "" if "Cure:" in text else ". Cure: correct the header, or export the image again"
        raise InputError(text + cure if text.startswith(str(path)) else f"{path}: {text}{cure}") from None
    except DAMAGES as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise InputError(
            f"{path}: cannot be read, the file is damaged or incomplete ({reason}). "
            "Cure: copy or download it again; remove the case if no good copy exists"
        ) from error


def _read_nifti(path: Path, as_float: bool) -> tuple[np.ndarray, Geometry]:
    stored = path.read_bytes()
    packed = stored[:2] == b"\x1f\x8b"
    content = gunzipped_start(stored, HEADER_BYTES) if packed else stored
    if packed and len(content) < 348:
        raise EOFError("the compressed file ended within the header")
    if len(content) < 348:
        raise InputError(f"{path}: {len(content)} bytes are too few for a NIfTI header. Cure: copy the file again")
    version_2 = 540 in (int.from_bytes(content[:4], "little"), int.from_bytes(content[:4], "big"))
    if version_2 and len(content) < HEADER_BYTES - 4:
        raise InputError(f"{path}: {len(content)} bytes are too few for a NIfTI-2 header. Cure: copy the file again")
    image_class: Any = nibabel.Nifti2Image if version_2 else nibabel.Nifti1Image
    # nibabel silently repairs a spacing of zero or below, so it is checked in the header as stored
    header = image_class.header_class.from_fileobj(io.BytesIO(content), check=False)
    stored_ndim = int(header["dim"][0])
    spacing = np.asarray(header["pixdim"][1 : 1 + min(max(stored_ndim, 2), 3)], dtype=np.float64)
    if not (np.isfinite(spacing) & (spacing > 0)).all():
        values = ", ".join(f"{v:g}" for v in spacing)
        raise InputError(f"{path}: spacing (pixdim) must be positive, found ({values}) mm. Cure: correct the header")
    dtype = header.get_data_dtype()
    if dtype.fields is not None or dtype.kind == "c":
        raise InputError(f"{path}: voxels are {dtype}, not one number. Cure: store one real number per channel")
    stated = shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) == 5 and shape[3] == 1:  # vector images: x, y, z, one time point, channels
        shape = (*shape[:3], shape[4])
    if not 2 <= len(shape) <= 4 or 0 in shape:
        raise InputError(
            f"{path}: shape {stated} is not 3D, nor 4D with channels last. Cure: store one volume per file"
        )
    # before memory is taken for a shape that may be the damage itself
    claimed = check_claim(path, shape, dtype.itemsize)
    offset = float(header["vox_offset"])
    if not 0 <= offset <= MOST_BEFORE_VOXELS:
        raise InputError(f"{path}: voxels begin at byte {offset:g} (vox_offset). Cure: correct the header")
    needed = int(offset) + claimed
    if packed:
        check_deflated(path, needed, len(stored))
        content = gunzipped(path, stored, max(needed, HEADER_BYTES))
    if len(content) < needed:
        raise InputError(
            f"{path}: cannot be read, the file is incomplete (needs {needed} bytes, holds {len(content)}). "
            "Cure: copy or download it again"
        )
    image = image_class.from_bytes(content)
    fields = {name: float(header[name]) for name in (*CODE_FIELDS, *QUATERNION_FIELDS)}
    fields |= {f"pixdim_{i}": float(header["pixdim"][i]) for i in range(4)}
    finite = tuple((name, value if math.isfinite(value) else 0.0) for name, value in fields.items())
    geometry = Geometry.from_affine(image.affine, shape[:3], finite)
    data = image.get_fdata(dtype=np.float32, caching="unchanged") if as_float else np.asanyarray(image.dataobj)
    return data.reshape(shape, order="A"), geometry


def _write_nifti(path: Path, stored: np.ndarray, geometry: Geometry) -> None:
    if image_ending(path) not in NIFTI_ENDINGS:
        raise InputError(f"{path}: results are written as NIfTI. Cure: use a name that ends in .nii.gz or .nii")
    header = nibabel.Nifti1Header()
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(stored.shape)
    header.set_sform(np.array(geometry.affine), code=1)
    if geometry.nifti_fields:
        for name, value in geometry.nifti_fields:
            if name.startswith("pixdim_"):
                header["pixdim"][int(name[7:])] = value
            else:
                header[name] = value
    else:
        header.set_qform(np.array(geometry.affine), code=1, strip_shears=True)
        header.set_xyzt_units("mm")
    image = nibabel.Nifti1Image(stored, None, header)
    with replacing(path) as temporary, temporary.open("wb") as file:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile("", "wb", compresslevel=3, fileobj=file, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(file)
