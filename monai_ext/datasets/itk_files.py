"""NRRD, MetaImage, TIFF and DICOM series through MONAI's ITK reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monai_ext.datasets.file_names import is_dicom
from monai_ext.datasets.geometry import Geometry
from monai_ext.errors import InputError

SPACING_TOLERANCE = 0.01  # of the distance between slices


def read_with_itk(path: Path) -> tuple[np.ndarray, Geometry]:
    """Read a file, or a folder with one DICOM series.

    Returns:
        Array `[x, y, z]` or `[x, y, z, C]` in file order and the geometry (RAS).

    Raises:
        InputError: the folder holds no DICOM file, several series, or slices that are not equally spaced.
    """
    from monai.data import ITKReader

    if path.is_dir():
        check_one_series(path)
    reader = ITKReader(channel_dim=None)
    image = reader.read(str(path))
    deviation = "ITK_non_uniform_sampling_deviation"
    if path.is_dir() and image.GetMetaDataDictionary().HasKey(deviation):
        apart = float(image.GetMetaDataDictionary()[deviation])
        # positions are decimal strings, so even a perfect series deviates a little; a missing slice by a whole spacing
        if apart > SPACING_TOLERANCE * float(image.GetSpacing()[2]):
            raise InputError(
                f"{path}: slices of the series are not equally spaced, deviation {apart:.3g} mm. "
                "Cure: restore missing slices; remove scouts and repeated slices"
            )
    data, meta = reader.get_data(image)
    array = np.array(data)  # a copy: the original is memory of the ITK image
    spatial = tuple(int(n) for n in np.asarray(meta["spatial_shape"]))
    if len(spatial) not in (2, 3) or array.ndim > 4 or 0 in array.shape:
        raise InputError(f"{path}: shape {array.shape} is not 2D or 3D with channels. Cure: store one volume per file")
    affine = np.eye(4)
    columns = [*range(len(spatial)), -1]  # a 2D image becomes a volume of one slice, 1 mm thick
    affine[np.ix_(columns, columns)] = np.asarray(meta["affine"], dtype=np.float64)
    return array, Geometry.from_affine(affine, spatial)


def check_one_series(folder: Path) -> None:
    """Require exactly one DICOM series in a folder.

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
