"""DICOM segmentations hold the same voxels at the same place as the label map, for every reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import highdicom
import itk
import nibabel
import numpy as np
import pydicom
import pytest

from monai_ext.datasets import dicom_packages
from monai_ext.datasets.dicom_segmentation import SERIES_OFFSET, check_source, write_segmentation
from monai_ext.datasets.image_files import read_image, write_label_map
from monai_ext.errors import InputError
from source_series import RAS_FROM_LPS, turned_affine, write_series

SPACING = (0.7, 0.9, 2.5)
AFFINE = turned_affine((0.2, -0.1, 0.3), SPACING, (5.0, -7.0, 3.0))
SHAPE = (7, 10, 12)
CLASSES = {"Posterior": 5, "Anterior": 2}  # neither in order nor without gaps, as values of a plan may be
MOST_APART = 1e-3  # mm; positions are decimal strings of 16 characters, label maps keep float32


def series(folder: Path, affine: np.ndarray = AFFINE, **options: Any) -> tuple[np.ndarray, Any, list[Any]]:
    """A series, and labels for it: `[D, H, W]` canonical, values of `CLASSES`, none in some slices."""
    rng = np.random.default_rng(11)
    stored = rng.choice([0, 2, 5, 1], SHAPE, p=[0.5, 0.2, 0.2, 0.1]).astype(np.uint8)
    stored[:2] = 0
    stored[4][stored[4] == 5] = 0
    written = write_series(folder, stored.astype(np.int16) * 100, affine, **options)
    image, geometry = read_image([folder])
    return (image[0] / 100).astype(np.uint8), geometry, written


def segments_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Masks `[segment, slice, row, column]` placed by their own positions, and the RAS affine, both by highdicom."""
    volume = highdicom.seg.segread(path).get_volume()
    turn = np.array(volume.affine)[:, [2, 1, 0, 3]]  # of (slice, row, column) to (column, row, slice)
    return np.moveaxis(volume.array, -1, 0), RAS_FROM_LPS @ turn


def itk_volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mask `[slice, row, column]` and RAS affine of a file with one segment, both by ITK."""
    image = itk.imread(str(path))
    grid = np.eye(4)
    grid[:3, :3] = itk.array_from_matrix(image.GetDirection()) @ np.diag(list(image.GetSpacing()))
    grid[:3, 3] = list(image.GetOrigin())
    mask = itk.array_from_image(image) > 0
    undefined = mask.size % 8  # ITK 5.4 unpacks whole bytes only, and leaves the last pixels as memory was
    if undefined:
        mask.ravel()[-undefined:] = pydicom.dcmread(path).pixel_array.ravel()[-undefined:]
    return mask, RAS_FROM_LPS @ grid


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("angles", [(0, 0, 0), (0.2, -0.1, 0.3), (1.5, 0.2, 0), (0, 1.4, -0.3)])
def test_voxels_and_place_are_those_of_the_label_map(tmp_path: Path, angles: Any, reverse: bool) -> None:
    """Axial, oblique, sagittal and coronal series; compared voxel by voxel in millimetres."""
    labels, geometry, _ = series(tmp_path / "s", turned_affine(angles, SPACING, (5, -7, 3)), reverse=reverse)
    write_segmentation(tmp_path / "a.dcm", labels, geometry, tmp_path / "s", CLASSES)
    write_label_map(tmp_path / "a.nii.gz", labels, geometry)
    nifti = nibabel.load(tmp_path / "a.nii.gz")
    expected = np.asarray(nifti.dataobj)
    read = highdicom.seg.segread(tmp_path / "a.dcm")
    assert {d.SegmentLabel: n for n, d in enumerate(read.SegmentSequence, 1)} == {"Anterior": 1, "Posterior": 2}
    masks, affine = segments_of(tmp_path / "a.dcm")
    for number, value in ((0, 2), (1, 5)):
        z, y, x = np.nonzero(masks[number])
        places = (affine @ np.stack([x, y, z, np.ones(len(x))]))[:3]
        wanted = np.stack(np.nonzero(expected == value))
        wanted_places = (nifti.affine @ np.concatenate([wanted, np.ones((1, wanted.shape[1]))]))[:3]
        assert places.shape == wanted_places.shape
        assert places.shape[1] > 50
        back = np.linalg.inv(nifti.affine) @ np.concatenate([places, np.ones((1, places.shape[1]))])
        index = np.rint(back[:3]).astype(int)
        assert (expected[tuple(index)] == value).all()
        exact = (nifti.affine @ np.concatenate([index, np.ones((1, index.shape[1]))]))[:3]
        assert np.abs(exact - places).max() < MOST_APART


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("angles", [(0, 0, 0), (0.2, -0.1, 0.3), (0, 1.4, -0.3)])
def test_itk_reads_one_class_as_a_volume_in_its_place(tmp_path: Path, angles: Any, reverse: bool) -> None:
    labels, geometry, _ = series(tmp_path / "s", turned_affine(angles, SPACING, (5, -7, 3)), reverse=reverse)
    write_segmentation(tmp_path / "a.dcm", labels, geometry, tmp_path / "s", {"Anterior": 2})
    write_label_map(tmp_path / "a.nii.gz", (labels == 2).astype(np.uint8), geometry)
    nifti = nibabel.as_closest_canonical(nibabel.load(tmp_path / "a.nii.gz"))
    mask, affine = itk_volume(tmp_path / "a.dcm")
    placed = nibabel.as_closest_canonical(nibabel.Nifti1Image(mask.astype(np.uint8).T, affine))
    assert mask.any()
    np.testing.assert_array_equal(np.asarray(placed.dataobj), np.asarray(nifti.dataobj))
    assert np.abs(placed.affine - nifti.affine).max() < MOST_APART


def test_every_frame_names_the_slice_it_lies_on(tmp_path: Path) -> None:
    labels, geometry, written = series(tmp_path / "s", reverse=True)
    write_segmentation(tmp_path / "a.dcm", labels, geometry, tmp_path / "s", CLASSES)
    made = pydicom.dcmread(tmp_path / "a.dcm")
    positions = {str(w.SOPInstanceUID): [float(v) for v in w.ImagePositionPatient] for w in written}
    (referenced,) = made.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == written[0].SeriesInstanceUID
    assert {str(i.ReferencedSOPInstanceUID) for i in referenced.ReferencedInstanceSequence} == set(positions)
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID", "AccessionNumber", "StudyDate"):
        assert str(made[name].value) == str(written[0][name].value)
    assert made.SeriesInstanceUID != written[0].SeriesInstanceUID
    assert (made.Modality, made.SegmentationType, made.SeriesNumber) == ("SEG", "BINARY", 4 + SERIES_OFFSET)
    assert {s.SegmentAlgorithmType for s in made.SegmentSequence} == {"AUTOMATIC"}
    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    sizes = (*map(float, measures.PixelSpacing), float(measures.SpacingBetweenSlices), float(measures.SliceThickness))
    assert sizes == pytest.approx((SPACING[1], SPACING[0], SPACING[2], SPACING[2]), abs=1e-9)
    frames = made.pixel_array
    sources = [str(w.SOPInstanceUID) for w in written]
    stored = np.stack([w.pixel_array for w in written]) // 100
    assert len(frames) == 5 + 4  # slices on which the classes 2 and 5 occur
    for frame, group in zip(frames, made.PerFrameFunctionalGroupsSequence, strict=True):
        source = str(group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
        np.testing.assert_allclose(
            [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient], positions[source], atol=1e-9
        )
        number = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        np.testing.assert_array_equal(frame > 0, stored[sources.index(source)] == {1: 2, 2: 5}[number])


def test_nothing_found_is_a_file_all_the_same(tmp_path: Path) -> None:
    labels, geometry, _ = series(tmp_path / "s")
    write_segmentation(tmp_path / "a.dcm", np.zeros_like(labels), geometry, tmp_path / "s", CLASSES)
    made = pydicom.dcmread(tmp_path / "a.dcm")
    assert not made.pixel_array.any()
    assert len(made.SegmentSequence) == 2


def test_headers_as_hospitals_write_them_are_carried(tmp_path: Path) -> None:
    """Elements that are missing, too long, no date; letters of other scripts in names and classes."""
    labels, geometry, written = series(
        tmp_path / "s",
        SpecificCharacterSet=["", "ISO 2022 IR 87"],
        PatientName="Yamada^Tarou=山田^太郎",
        PatientID=None,
        PatientBirthDate="19701399",
        PatientSex="U",
        AccessionNumber="A" * 40,
        StudyDate=None,
        StudyID=None,
        StudyTime="noon",
        SeriesNumber=None,
        SliceThickness=None,
        SeriesDescription="x" * 100,
        FrameOfReferenceUID=None,
    )
    for name in ("a", "b"):
        write_segmentation(tmp_path / f"{name}.dcm", labels, geometry, tmp_path / "s", {"Köpfchen 脑": 2})
    a, b = (pydicom.dcmread(tmp_path / f"{name}.dcm") for name in "ab")
    assert str(a.PatientName) == "Yamada^Tarou=山田^太郎"
    assert a.SegmentSequence[0].SegmentLabel == "Köpfchen 脑"
    assert (a.PatientID, a.PatientBirthDate, a.PatientSex, a.StudyDate, a.StudyTime) == ("", "", "", "", "")
    assert a.AccessionNumber == "A" * 40
    assert a.SeriesNumber == SERIES_OFFSET
    assert a.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == pytest.approx(SPACING[2])
    assert "FrameOfReferenceUID" not in written[0]
    assert a.FrameOfReferenceUID == b.FrameOfReferenceUID != ""
    assert a.SOPInstanceUID != b.SOPInstanceUID


def test_cases_that_are_no_series_are_refused_before_work(tmp_path: Path) -> None:
    series(tmp_path / "s")
    check_source([tmp_path / "s"], tmp_path / "out")
    with pytest.raises(InputError, match=r"a\.nii\.gz is no folder with a DICOM series.*--pred_format nii"):
        check_source([tmp_path / "a.nii.gz"], tmp_path / "out")
    with pytest.raises(InputError, match="is the folder of the series"):
        check_source([tmp_path / "s"], tmp_path / "out" / ".." / "s")
    write_series(tmp_path / "t", np.zeros(SHAPE, np.int16), AFFINE, shift=np.array([0.0, 0.4, 0.0]))
    with pytest.raises(InputError, match="mm off the grid"):
        check_source([tmp_path / "t"], tmp_path / "out")


def test_missing_packages_are_told_with_their_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match=r"need highdicom, which is not installed.*monai-ext\[dicom\]"):
        check_source([tmp_path], tmp_path / "out")
    assert dicom_packages.dicom_package("pydicom") is pydicom


@pytest.mark.real_data
@pytest.mark.parametrize("turn", [(0, 0, 0), (0.25, 0.1, -0.2)])
def test_real_label_maps_go_through_dicom_unchanged(tmp_path: Path, data_folder: Path, turn: Any) -> None:
    """Hippocampus, as the scanner lay and oblique, through highdicom and ITK."""
    folder = data_folder / "Task04_Hippocampus"
    path = sorted((folder / "labelsTr").glob("*.nii.gz"))[0]
    reference = nibabel.load(path)
    stored = np.asarray(reference.dataobj).astype(np.uint8)
    affine = turned_affine(turn, (1, 1, 1), (0, 0, 0)) @ reference.affine
    voxels = np.asarray(nibabel.load(folder / "imagesTr" / path.name).dataobj)
    scaled = np.round(voxels / max(float(voxels.max()) / 30000, 1)).astype(np.int16)
    write_series(tmp_path / "s", np.ascontiguousarray(scaled.transpose(2, 1, 0)), affine, reverse=True)
    _, geometry = read_image([tmp_path / "s"])
    turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(stored, affine))
    labels = np.ascontiguousarray(np.asarray(turned.dataobj).T)
    for value, name in ((1, "Anterior"), (2, "Posterior")):
        write_segmentation(tmp_path / "a.dcm", labels, geometry, tmp_path / "s", {name: value})
        masks, grid = segments_of(tmp_path / "a.dcm")
        for mask, found in ((masks[0], grid), itk_volume(tmp_path / "a.dcm")):
            placed = nibabel.as_closest_canonical(nibabel.Nifti1Image(mask.astype(np.uint8).T, found))
            np.testing.assert_array_equal(np.asarray(placed.dataobj).T, labels == value)
            assert np.abs(placed.affine - turned.affine).max() < MOST_APART


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, geometry, _ = series(tmp_path / "s")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(highdicom.seg.Segmentation, "save_as", full)
    with pytest.raises(InputError, match=r"^\S+a\.dcm: cannot be written \(No space left"):
        write_segmentation(tmp_path / "out" / "a.dcm", labels, geometry, tmp_path / "s", CLASSES)
    assert not list((tmp_path / "out").iterdir())


def test_neither_torch_nor_highdicom_is_imported_with_the_module() -> None:
    program = (
        "import sys, monai_ext.datasets.dicom_segmentation; "
        "sys.exit(bool({'torch', 'monai', 'highdicom'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
