"""Headers of the slices of a DICOM series, each matched with its slice of the voxel grid that was read from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.datasets.dicom_header import check_dicom
from monai_ext.datasets.dicom_packages import dicom_package
from monai_ext.datasets.file_names import is_dicom
from monai_ext.datasets.geometry import Geometry, volume_shape
from monai_ext.errors import InputError, Problems

# what the slices of one series share and a segmentation copies from them
SHARED = ("PatientID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "Rows", "Columns")
NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
GEOMETRIC = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}  # how many numbers each has
NUMBERS = ("SeriesNumber", "SliceThickness")  # that may be missing
RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM counts x to the left and y to the back
PLACE_TOLERANCE = 0.02  # of the largest spacing: positions are decimal strings, and series are accepted up to 1 %
AXIS_TOLERANCE = 1e-3  # of a direction cosine: some scanners write three digits; gantries tilt at least ten times that
MOST_NAMED = 5


def read_headers(folder: str | Path) -> list[Any]:
    """Headers of all DICOM files of a folder, without pixels, in the order of their names.

    Args:
        folder: folder with one series of single-frame images.

    Returns:
        One `pydicom.Dataset` a file.

    Raises:
        InputError: pydicom is missing; or, all problems at once: no DICOM file, several series or frames of reference,
            headers that are damaged, lack what tells where a slice lies, or hold several frames.
    """
    pydicom = dicom_package("pydicom")
    folder = Path(folder)
    files = [file for file in sorted(folder.iterdir()) if is_dicom(file)] if folder.is_dir() else []
    if not files:
        raise InputError(
            f"{folder}: is no folder with a DICOM series, which a DICOM segmentation refers to. "
            "Cure: give the folder of the series, or --pred_format nii"
        )
    check_dicom(folder)  # before a deflated file is unpacked to find its header
    problems, headers = Problems(f"DICOM series {folder}"), []
    for file in files:
        try:
            # hospitals' headers hold values that are longer than DICOM allows, which is no fault of this series
            with pydicom.config.disable_value_validation():
                header = pydicom.dcmread(file, stop_before_pixels=True)
                header.decode()
        except (pydicom.errors.InvalidDicomError, OSError, ValueError, EOFError, AttributeError, KeyError) as error:
            problems.add(file.name, f"its DICOM header is damaged ({error})", "copy it again")
            continue
        wrong = _defects(header)
        if wrong:
            problems.add(file.name, wrong, "--pred_format nii, which needs no more than the pixels")
        else:
            headers.append(header)
    for name in SHARED:
        found = list(dict.fromkeys(str(header.get(name, "none")) for header in headers))
        if len(found) > 1:
            listed = ", ".join(found[:MOST_NAMED])
            problems.add(name, f"must be the same in all files, found {listed}", "one folder for each series")
    uids = [str(header.SOPInstanceUID) for header in headers]
    if len(set(uids)) < len(uids):
        twice = next(uid for uid in uids if uids.count(uid) > 1)
        problems.add("SOPInstanceUID", f"{twice} stands in several files", "remove copies")
    _name_few(problems)
    return headers


def geometry_of(headers: Sequence[Any]) -> Geometry:
    """Grid of the volume that ITK makes of a series, from its headers alone.

    Slices follow each other along the normal of the first, evenly from the lowest to the highest.

    Args:
        headers: as `read_headers` gives them, in any order.

    Returns:
        The geometry (RAS) with file axes (column, row, slice).

    Raises:
        InputError: all slices lie at one place, or a size is zero.
    """
    first = headers[0]
    along = np.array([float(v) for v in first.ImageOrientationPatient]).reshape(2, 3)
    normal = np.cross(*along)
    normal /= np.linalg.norm(normal)
    positions = np.array([[float(v) for v in header.ImagePositionPatient] for header in headers])
    heights = positions @ normal
    distance = float(np.ptp(heights)) / (len(headers) - 1) if len(headers) > 1 else 1.0
    grid = np.eye(4)
    grid[:3, 0], grid[:3, 1] = along[0] * float(first.PixelSpacing[1]), along[1] * float(first.PixelSpacing[0])
    grid[:3, 2], grid[:3, 3] = normal * distance, positions[int(np.argmin(heights))]
    return Geometry.from_affine(RAS_FROM_LPS @ grid, (int(first.Columns), int(first.Rows), len(headers)))


def _defects(header: Any) -> str:
    """What keeps a header from being referred to; empty if nothing."""
    missing = [name for name in NEEDED if header.get(name) in (None, "")]
    if int(header.get("NumberOfFrames") or 1) > 1 or "PerFrameFunctionalGroupsSequence" in header:
        return f"holds several frames ({header.get('NumberOfFrames')}), only series of one slice a file are supported"
    missing += [name for name in GEOMETRIC if header.get(name) in (None, "")]
    if missing:
        return f"lacks {', '.join(missing)}"
    wrong = [name for name, count in GEOMETRIC.items() if len(_numbers(header.get(name))) != count]
    wrong += [name for name in NUMBERS if header.get(name) not in (None, "") and len(_numbers(header.get(name))) != 1]
    if not wrong and min(_numbers(header.PixelSpacing)) <= 0:
        wrong = ["PixelSpacing"]
    if not wrong and np.linalg.norm(np.cross(*np.reshape(_numbers(header.ImageOrientationPatient), (2, 3)))) < 0.5:
        wrong = ["ImageOrientationPatient"]  # rows along columns
    return "; ".join(f"{name} is {header.get(name)}, which makes no sense" for name in wrong)


def _numbers(value: Any) -> list[float]:
    """Finite numbers of an element of one or several; none if one of them is not."""
    values = [value] if isinstance(value, (str, int, float)) or not hasattr(value, "__iter__") else list(value)
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError):
        return []
    return numbers if np.isfinite(numbers).all() else []


def slices_in_order(headers: Sequence[Any], geometry: Geometry, subject: str = "series") -> list[Any]:
    """Headers in the order of the slices of the grid, whichever order the files have.

    Args:
        headers: as `read_headers` gives them.
        geometry: of the volume that was read from the same series; its file axes are (column, row, slice).
        subject: the series in messages.

    Returns:
        `geometry.file_shape[2]` headers, the first that of slice 0.

    Raises:
        InputError: all problems at once: rows and columns, pixel size or directions differ from the grid; a slice
            lies off the grid (gantry tilt, unequal distances), two lie at one place, one is missing.
    """
    columns, rows, count = volume_shape(geometry.file_shape)
    grid = RAS_FROM_LPS @ np.array(geometry.affine)
    lengths = np.linalg.norm(grid[:3, :3], axis=0)
    to_voxels = np.linalg.inv(grid)
    tolerance = PLACE_TOLERANCE * float(lengths.max())
    problems = Problems(f"slices of {subject}")
    placed: dict[int, Any] = {}
    if len(headers) != count:
        problems.add("files", f"{len(headers)} for {count} slices of the volume", "one folder with one whole series")
    for header in headers:
        name = _name(header)
        position = np.array([float(v) for v in header.ImagePositionPatient])
        along = np.array([float(v) for v in header.ImageOrientationPatient]).reshape(2, 3)
        spacing = np.array([float(v) for v in header.PixelSpacing])[::-1]  # of rows first
        if (int(header.Columns), int(header.Rows)) != (columns, rows):
            problems.add(
                name, f"{header.Columns}x{header.Rows} pixels, the volume has {columns}x{rows}", "export again"
            )
        elif not np.allclose(spacing, lengths[:2], rtol=AXIS_TOLERANCE, atol=0):
            problems.add(name, f"pixels of {spacing} mm, the volume has {lengths[:2]}", "export the series again")
        elif not np.allclose(along.T, grid[:3, :2] / lengths[:2], atol=AXIS_TOLERANCE):
            problems.add(name, f"is turned against the volume: {along.tolist()}", "remove scouts, or export again")
        else:
            index = (to_voxels @ [*position, 1.0])[:3]
            place = int(np.rint(index[2]))
            across, beside = (index - [0, 0, place])[2] * lengths[2], float(np.linalg.norm(index[:2] * lengths[:2]))
            # what rounded direction cosines amount to grows with the way from the first slice
            if abs(across) > tolerance or beside > tolerance + AXIS_TOLERANCE * abs(index[2]) * lengths[2]:
                apart = float(np.hypot(across, beside))
                cure = "resample the series to a grid without tilt and equal distances, or --pred_format nii"
                problems.add(name, f"lies {apart:.3g} mm off the grid of the volume", cure)
            elif not 0 <= place < count or place in placed:
                where = "outside of the volume" if place not in placed else f"where {_name(placed[place])} lies"
                problems.add(name, f"lies {where} (slice {place})", "remove repeated slices")
            else:
                placed[place] = header
    if not len(problems) and len(placed) < count:
        absent = sorted(set(range(count)) - set(placed))
        problems.add("slices", f"{len(absent)} are missing ({absent[:MOST_NAMED]})", "restore them")
    _name_few(problems)
    return [placed[place] for place in range(count)]


def _name(header: Any) -> str:
    return Path(str(getattr(header, "filename", "") or header.SOPInstanceUID)).name


def _name_few(problems: Problems) -> None:
    """Raise if there are problems; a series of hundreds of files with the same one names some."""
    more = len(problems.lines) - MOST_NAMED
    if more > 0:
        problems.lines[MOST_NAMED:] = [f"{more} more of this kind. Cure: as above"]
    problems.raise_if_any()
