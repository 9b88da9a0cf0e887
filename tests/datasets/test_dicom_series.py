"""Every slice of a DICOM series finds its place in the volume, or the series is refused with its reason."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from monai_ext.datasets.dicom_series import PLACE_TOLERANCE, geometry_of, read_headers, slices_in_order
from monai_ext.datasets.geometry import check_same_geometry
from monai_ext.datasets.image_files import read_image
from monai_ext.errors import InputError
from source_series import RAS_FROM_LPS, turned_affine, write_series

SPACING = (0.7, 0.9, 2.5)
AFFINE = turned_affine((0.2, -0.1, 0.3), SPACING, (5.0, -7.0, 3.0))
VOXELS = np.random.default_rng(3).integers(0, 900, (7, 10, 12)).astype(np.int16)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("angles", [(0, 0, 0), (0.2, -0.1, 0.3), (1.5, 0.2, 0), (0, 1.4, -0.3)])
def test_headers_give_the_grid_and_order_that_itk_reads(tmp_path: Path, angles: Any, reverse: bool) -> None:
    """Axial, oblique, sagittal and coronal series."""
    written = write_series(tmp_path / "s", VOXELS, turned_affine(angles, SPACING, (5, -7, 3)), reverse=reverse)
    _, geometry = read_image([tmp_path / "s"])
    headers = read_headers(tmp_path / "s")
    check_same_geometry(geometry_of(headers), geometry)
    found = slices_in_order(headers, geometry)
    # ITK stacks along the normal of the slices, which `turned_affine` makes point upwards
    assert [str(h.SOPInstanceUID) for h in found] == [str(w.SOPInstanceUID) for w in written]
    names = [Path(str(h.filename)).name for h in headers]
    assert names == sorted(names)


def test_a_stack_against_its_normal_is_ordered_along_it(tmp_path: Path) -> None:
    flipped = AFFINE @ np.diag([1.0, 1.0, -1.0, 1.0])
    written = write_series(tmp_path / "s", VOXELS, flipped)
    _, geometry = read_image([tmp_path / "s"])
    found = slices_in_order(read_headers(tmp_path / "s"), geometry)
    assert [str(h.SOPInstanceUID) for h in found] == [str(w.SOPInstanceUID) for w in written[::-1]]


def test_tilted_gantry_is_refused_and_rounded_positions_are_not(tmp_path: Path) -> None:
    for name, drift in (("tilted", 0.3), ("rounded", PLACE_TOLERANCE * SPACING[2] / len(VOXELS))):
        write_series(tmp_path / name, VOXELS, AFFINE, shift=np.array([0.0, drift, 0.0]))
    headers = read_headers(tmp_path / "rounded")
    assert len(slices_in_order(headers, geometry_of(headers))) == len(VOXELS)
    headers = read_headers(tmp_path / "tilted")
    with pytest.raises(InputError, match=r"6 problems(.|\n)*IM0007\.dcm: lies|1 more of this kind") as error:
        slices_in_order(headers, geometry_of(headers))
    assert "mm off the grid of the volume" in str(error.value)
    assert "Cure: resample the series" in str(error.value)


def test_three_digits_of_direction_are_enough_for_a_long_series(tmp_path: Path) -> None:
    """The last of 200 slices lies farther beside the axis that rounded cosines give than one slice alone may."""
    voxels = np.zeros((200, 4, 4), np.int16)
    axes = (RAS_FROM_LPS @ AFFINE)[:3, :2] / SPACING[:2]
    rounded = [round(float(v), 3) for v in axes.T.ravel()]
    write_series(tmp_path / "s", voxels, AFFINE, ImageOrientationPatient=rounded)
    headers = read_headers(tmp_path / "s")
    assert len(slices_in_order(headers, geometry_of(headers))) == 200
    last = np.linalg.inv(RAS_FROM_LPS @ np.array(geometry_of(headers).affine)) @ [*headers[-1].ImagePositionPatient, 1]
    assert np.linalg.norm(last[:2] * SPACING[:2]) > PLACE_TOLERANCE * SPACING[2]
    for header in headers[100:]:  # as if one slice were missing in the middle
        header.ImagePositionPatient = [
            float(v) + a for v, a in zip(header.ImagePositionPatient, (RAS_FROM_LPS @ AFFINE)[:3, 2], strict=True)
        ]
    with pytest.raises(InputError, match="mm off the grid"):
        slices_in_order(headers, geometry_of(headers))


def test_missing_and_repeated_slices_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "s", VOXELS, AFFINE)
    headers = read_headers(tmp_path / "s")
    geometry = geometry_of(headers)
    with pytest.raises(InputError, match="6 for 7 slices"):
        slices_in_order([*headers[:3], *headers[4:]], geometry)
    with pytest.raises(InputError, match=r"lies where IM0001\.dcm lies \(slice 0\)"):
        slices_in_order([headers[0], *headers[:3], *headers[4:]], geometry)
    for name, move, refused in (("apart", 0.2, True), ("rounded", 0.02, False)):  # mm, of slices 2.5 mm apart
        axis = (RAS_FROM_LPS @ AFFINE)[:3, 2] / SPACING[2]
        moved = read_headers(tmp_path / "s")
        moved[3].ImagePositionPatient = list(np.array([float(v) for v in moved[3].ImagePositionPatient]) + move * axis)
        with pytest.raises(InputError, match=r"1 problem\n.*IM0004.*0\.2 mm off") if refused else nullcontext():
            assert slices_in_order(moved, geometry, name)
    missing = [*headers[:3], *headers[4:]]
    with pytest.raises(InputError, match="mm off the grid"):  # told from the headers, before anything is read
        slices_in_order(missing, geometry_of(missing))


def test_a_volume_of_another_series_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "s", VOXELS, AFFINE)
    headers = read_headers(tmp_path / "s")
    for name, affine, shape, expected in (
        ("pixels", AFFINE, (7, 10, 13), "12x10 pixels, the volume has 13x10"),
        ("spacing", AFFINE @ np.diag([1.1, 1, 1, 1]), (7, 10, 12), "mm, the volume has"),
        ("turned", turned_affine((0.2, -0.1, 0.4), SPACING, (5, -7, 3)), (7, 10, 12), "turned against the volume"),
    ):
        write_series(tmp_path / name, np.zeros(shape, np.int16), affine)
        with pytest.raises(InputError, match=expected):
            slices_in_order(headers, geometry_of(read_headers(tmp_path / name)))


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"ImagePositionPatient": None}, "lacks ImagePositionPatient"),
        ({"ImageOrientationPatient": None, "PixelSpacing": None}, "lacks ImageOrientationPatient, PixelSpacing"),
        ({"SOPClassUID": None}, "lacks SOPClassUID"),
        ({"NumberOfFrames": 3}, r"holds several frames \(3\)"),
        ({"ImagePositionPatient": [1, 2]}, "ImagePositionPatient is .*makes no sense"),
        ({"ImageOrientationPatient": [1, 0, 0]}, "ImageOrientationPatient is .*makes no sense"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "ImageOrientationPatient is .*makes no sense"),
        ({"PixelSpacing": [0, 1]}, "PixelSpacing is .*makes no sense"),
        ({"PixelSpacing": [float("nan"), 1]}, "PixelSpacing is .*makes no sense"),
        ({"SliceThickness": [1, 2]}, "SliceThickness is .*makes no sense"),
    ],
)
def test_headers_that_tell_too_little_are_refused_once(tmp_path: Path, elements: dict[str, Any], expected: str) -> None:
    write_series(tmp_path / "s", VOXELS, AFFINE, **elements)
    with pytest.raises(InputError, match=expected) as error:
        read_headers(tmp_path / "s")
    assert str(error.value).count("IM0001.dcm") == 1
    assert "2 more of this kind" in str(error.value)


def test_several_series_and_no_series_are_refused(tmp_path: Path) -> None:
    for _ in range(2):
        write_series(tmp_path / "s", VOXELS, AFFINE)
        for path in (tmp_path / "s").glob("IM*"):
            path.rename(path.with_name("A" + path.name))
        write_series(tmp_path / "s", VOXELS, AFFINE)
    with pytest.raises(InputError, match="SeriesInstanceUID: must be the same in all files, found"):
        read_headers(tmp_path / "s")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("x")
    for folder in (tmp_path / "empty", tmp_path / "empty" / "notes.txt"):
        with pytest.raises(InputError, match="is no folder with a DICOM series"):
            read_headers(folder)


def test_a_file_twice_and_two_patients_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "s", VOXELS, AFFINE)
    (tmp_path / "s" / "copy.dcm").write_bytes((tmp_path / "s" / "IM0001.dcm").read_bytes())
    with pytest.raises(InputError, match=r"SOPInstanceUID: .* stands in several files\. Cure: remove copies"):
        read_headers(tmp_path / "s")
    (tmp_path / "s" / "copy.dcm").unlink()
    other = pydicom.dcmread(tmp_path / "s" / "IM0002.dcm")
    other.PatientID = "P-18"
    other.save_as(tmp_path / "s" / "IM0002.dcm")
    with pytest.raises(InputError, match="PatientID: must be the same in all files, found P-17, P-18"):
        read_headers(tmp_path / "s")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "s", VOXELS, AFFINE)
    (tmp_path / "s" / "IM0004.dcm").write_bytes((tmp_path / "s" / "IM0004.dcm").read_bytes()[:300])
    with pytest.raises(InputError, match=r"IM0004\.dcm"):
        read_headers(tmp_path / "s")


def test_pixels_are_not_loaded(tmp_path: Path) -> None:
    write_series(tmp_path / "s", VOXELS, AFFINE)
    assert all("PixelData" not in header for header in read_headers(tmp_path / "s"))
    assert "PixelData" in pydicom.dcmread(tmp_path / "s" / "IM0001.dcm")
