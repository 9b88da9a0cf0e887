from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_ext.datasets import image_files
from monai_ext.datasets.image_files import read_image, read_label, write_label_map, write_probabilities
from monai_ext.errors import InputError

Writer = Callable[..., Path]
OBLIQUE = np.array([[-0.9, 0.1, 0.3, 10], [0.2, -1.1, 0.2, -20], [0.1, 0.2, 2.9, 30.5], [0, 0, 0, 1]])


def random_labels(shape: tuple[int, ...], classes: int = 4) -> np.ndarray:
    return np.random.default_rng(1).integers(0, classes, shape).astype(np.uint8)


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1, -2, 3, 1.0]), OBLIQUE, OBLIQUE[:, [2, 0, 1, 3]]])
def test_written_label_map_lies_on_the_input_voxel_by_voxel(
    affine: np.ndarray, write_nifti: Writer, tmp_path: Path
) -> None:
    stored = random_labels((4, 5, 6))
    source = write_nifti("in.nii.gz", stored.astype(np.float32), affine)
    image, geometry = read_image([source])
    write_label_map(tmp_path / "out.nii.gz", image[0].astype(np.uint8), geometry)
    written, original = nibabel.load(tmp_path / "out.nii.gz"), nibabel.load(source)
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), stored)
    np.testing.assert_array_equal(written.affine, original.affine)  # exact: header fields are copied
    np.testing.assert_array_equal(read_label(tmp_path / "out.nii.gz")[0], image[0])


@pytest.mark.parametrize(("qform", "sform"), [(0, 0), (0, 1), (1, 0), (1, 2), (2, 4)])
def test_codes_units_and_both_transforms_are_kept(qform: int, sform: int, tmp_path: Path) -> None:
    source = nibabel.Nifti1Image(random_labels((4, 5, 6)), None)
    other = np.diag([-2.0, -2.0, 2.0, 1.0])
    other[:3, 3] = 5
    source.header.set_zooms((2, 2, 2))
    if qform:
        source.set_qform(other, code=qform)
    if sform:
        source.set_sform(OBLIQUE, code=sform)
    source.header.set_xyzt_units("mm", "sec")
    nibabel.save(source, tmp_path / "in.nii.gz")
    labels, geometry = read_label(tmp_path / "in.nii.gz")
    write_label_map(tmp_path / "out.nii", labels, geometry)
    before, after = nibabel.load(tmp_path / "in.nii.gz"), nibabel.load(tmp_path / "out.nii")
    for field in ("qform_code", "sform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d", "qoffset_x"):
        assert after.header[field] == before.header[field], field
    np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_array_equal(np.asanyarray(after.dataobj), np.asanyarray(before.dataobj))


def test_labels_from_256_on_are_written_as_uint16(write_nifti: Writer, tmp_path: Path) -> None:
    _, geometry = read_image([write_nifti("in.nii.gz", np.zeros((2, 3, 4), np.int16))])
    labels = np.arange(24).reshape(4, 3, 2) + 240
    write_label_map(tmp_path / "out.nii.gz", labels, geometry)
    assert nibabel.load(tmp_path / "out.nii.gz").get_data_dtype() == np.uint16
    np.testing.assert_array_equal(read_label(tmp_path / "out.nii.gz")[0], labels)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    source = nibabel.Nifti1Image(array, np.eye(4))
    source.header.set_slope_inter(2.0, -1000.0)
    nibabel.save(source, tmp_path / "in.nii.gz")
    image, _ = read_image([tmp_path / "in.nii.gz"])
    np.testing.assert_array_equal(image[0], 2.0 * array.T - 1000.0)
    assert image.dtype == np.float32
    assert image.flags.c_contiguous


def test_channels_last_become_channels_first_and_back(write_nifti: Writer, tmp_path: Path) -> None:
    stored = np.random.default_rng(0).normal(size=(4, 5, 6, 3)).astype(np.float32)
    image, geometry = read_image([write_nifti("in.nii.gz", stored, OBLIQUE)])
    assert image.shape == (3, 6, 5, 4)
    assert geometry.file_shape == (4, 5, 6)
    write_probabilities(tmp_path / "p.nii.gz", image, geometry)
    written = nibabel.load(tmp_path / "p.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), stored)
    assert written.get_data_dtype() == np.float32
    np.testing.assert_allclose(written.affine, OBLIQUE, rtol=1e-6)  # NIfTI stores the affine as float32


def test_one_file_per_channel_equals_one_file_with_all(write_nifti: Writer) -> None:
    stored = np.random.default_rng(0).normal(size=(4, 5, 6, 2)).astype(np.float32)
    together, _ = read_image([write_nifti("both.nii.gz", stored)])
    apart, _ = read_image([write_nifti(f"x_000{i}.nii.gz", stored[..., i]) for i in range(2)])
    np.testing.assert_array_equal(apart, together)


def test_channel_files_are_checked_all_at_once(write_nifti: Writer, tmp_path: Path) -> None:
    volume = np.zeros((4, 5, 6), np.float32)
    paths = [
        write_nifti("x_0000.nii.gz", volume),
        write_nifti("x_0001.nii.gz", np.zeros((4, 5, 6, 2), np.float32)),
        write_nifti("x_0002.nii.gz", volume, np.diag([1, 1, 2.0, 1])),
        tmp_path / "x_0003.nii.gz",
    ]
    with pytest.raises(InputError) as caught:
        read_image(paths)
    text = str(caught.value)
    assert "3 problems" in text
    assert "x_0001.nii.gz: holds 2 channels" in text
    assert "x_0002.nii.gz: differs from the first channel in spacing 1x1x1 mm against 1x1x2 mm" in text
    assert "x_0003.nii.gz: file does not exist" in text


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd", ".tif"])
def test_other_formats_hold_the_same_image_as_nifti(ending: str, write_nifti: Writer, tmp_path: Path) -> None:
    import itk

    array = np.random.default_rng(0).integers(0, 255, (3, 4, 5)).astype(np.uint8)  # z, y, x
    image = itk.image_from_array(array)
    lps = np.diag([-1.0, -1.0, 1.0])
    affine = np.eye(4)
    if ending == ".tif":  # a stack without position: identity in ITK's LPS axes
        affine[:3, :3] = lps
        tolerance = 1e-6  # the resolution of a TIFF is a rational number per inch
    else:
        direction = np.asarray(nibabel.eulerangles.euler2mat(0.1, -0.2, 0.3))
        image.SetSpacing([0.5, 0.75, 2.0])
        image.SetOrigin([1.0, 2.0, 3.0])
        image.SetDirection(itk.matrix_from_array(direction))
        affine[:3, :3] = lps @ direction @ np.diag([0.5, 0.75, 2.0])
        affine[:3, 3] = lps @ [1.0, 2.0, 3.0]
        tolerance = 1e-5  # NIfTI stores float32
    itk.imwrite(image, str(tmp_path / f"image{ending}"))
    expected, expected_geometry = read_image([write_nifti("same.nii.gz", array.T, affine)])
    found, geometry = read_image([tmp_path / f"image{ending}"])
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(geometry.affine, expected_geometry.affine, atol=tolerance)
    assert geometry.shape == expected_geometry.shape
    write_label_map(tmp_path / "out.nii.gz", found[0].astype(np.uint8), geometry)
    written = nibabel.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), array.T)
    np.testing.assert_allclose(written.affine, affine, atol=tolerance)
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (1, 1)


@pytest.mark.parametrize("ending", [".dcm", ""])
def test_dicom_series_holds_the_same_image_as_nifti(ending: str, dicom_series: Writer, write_nifti: Writer) -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, (3, 4, 5)).astype(np.int16)
    direction = np.asarray(nibabel.eulerangles.euler2mat(0.1, -0.2, 0.3))
    folder = dicom_series("series", array, (0.5, 0.75, 2.5), (1.0, 2.0, 3.0), direction, ending=ending)
    affine = np.eye(4)
    lps = np.diag([-1.0, -1.0, 1.0])
    affine[:3, :3] = lps @ direction @ np.diag([0.5, 0.75, 2.5])
    affine[:3, 3] = lps @ [1.0, 2.0, 3.0]
    expected, expected_geometry = read_image([write_nifti("same.nii.gz", array.T, affine)])
    found, geometry = read_image([folder])
    np.testing.assert_array_equal(found, expected)
    # DICOM stores decimal strings of at most 16 characters
    np.testing.assert_allclose(geometry.affine, expected_geometry.affine, atol=1e-4)


def test_dicom_series_with_a_missing_slice_is_refused(dicom_series: Writer) -> None:
    folder = dicom_series("series", np.zeros((6, 4, 5), np.int16), (1.0, 1.0, 3.0))
    (folder / "1.2.3.4_002.dcm").unlink()
    with pytest.raises(InputError, match=r"series: slices of the series are not equally spaced.*Cure: restore"):
        read_image([folder])


def test_png_is_one_slice_with_its_colours_as_channels(tmp_path: Path) -> None:
    from PIL import Image

    array = np.random.default_rng(0).integers(0, 255, (4, 5, 3)).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "x.png")
    image, geometry = read_image([tmp_path / "x.png"])
    assert geometry.shape == (1, 4, 5)
    # pictures have no position: ITK's LPS axes put the first pixel right and front, RAS counts from left and back
    np.testing.assert_array_equal(image[:, 0], array[::-1, ::-1].transpose(2, 0, 1))


@pytest.mark.parametrize("keep", [0, 2, 30, -40, -4])
def test_truncated_file_is_refused(keep: int, write_nifti: Writer) -> None:
    path = write_nifti("x.nii.gz", np.random.default_rng(0).normal(size=(8, 8, 8)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"x\.nii\.gz: .*Cure: (copy|download)"):
        read_image([path])


def test_flipped_bit_is_found_by_the_checksum(write_nifti: Writer) -> None:
    path = write_nifti("x.nii.gz", np.random.default_rng(0).normal(size=(8, 8, 8)))
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # in the stored checksum: the data themselves unpack without an error
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.nii\.gz: cannot be read.*CRC.*Cure: copy"):
        read_image([path])


def test_truncated_uncompressed_file_is_refused(write_nifti: Writer) -> None:
    path = write_nifti("x.nii", np.zeros((8, 8, 8)))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"x\.nii: cannot be read.*Cure: copy"):
        read_image([path])


@pytest.mark.parametrize("name", ["x.nrrd", "x.mha", "x.tif", "x.png"])
def test_damaged_file_of_another_format_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(InputError, match=f"{name}: cannot be read.*Cure: copy"):
        read_image([tmp_path / name])


def test_two_dimensional_nifti_comes_back_two_dimensional(write_nifti: Writer, tmp_path: Path) -> None:
    stored = random_labels((4, 5))
    path = write_nifti("x.nii.gz", stored, np.diag([-0.5, 0.75, 1.0, 1.0]))
    image, geometry = read_image([path])
    assert image.shape == (1, 1, 5, 4)
    assert geometry.spacing == (1.0, 0.75, 0.5)
    write_label_map(tmp_path / "out.nii.gz", image[0].astype(np.uint8), geometry)
    written = nibabel.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), stored)
    write_probabilities(tmp_path / "p.nii.gz", np.concatenate([image, image]), geometry)
    assert nibabel.load(tmp_path / "p.nii.gz").shape == (4, 5, 1, 2)


def test_damaged_shape_takes_no_memory(write_nifti: Writer) -> None:
    path = write_nifti("x.nii", np.zeros((4, 4, 4)))
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([32767] * 3, np.int16).tobytes()  # dim[1..3]: 256 TiB of float64
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.nii: its header claims 32767 x 32767 x 32767 values of 8 bytes"):
        read_image([path])


@pytest.mark.parametrize("spacing", [0.0, -1.0, float("nan"), float("inf")])
def test_spacing_must_be_positive(spacing: float, write_nifti: Writer) -> None:
    path = write_nifti("x.nii", np.zeros((4, 4, 4)))
    content = bytearray(path.read_bytes())
    content[84:88] = np.float32(spacing).tobytes()  # pixdim[2]
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.nii: spacing \(pixdim\) must be positive, found .*Cure: correct the"):
        read_image([path])


def test_singular_affine_is_refused(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4)), None)
    image.header["sform_code"] = 1
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]
    nibabel.save(image, tmp_path / "x.nii")
    with pytest.raises(InputError, match=r"x\.nii: affine is singular.*Cure: "):
        read_image([tmp_path / "x.nii"])


def test_structured_voxels_are_refused(tmp_path: Path) -> None:
    array = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "x.nii")
    with pytest.raises(InputError, match=r"x\.nii: voxels are .*not one number.*Cure: "):
        read_image([tmp_path / "x.nii"])


def test_missing_and_unknown_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.nii\.gz: file does not exist.*Cure: "):
        read_image([tmp_path / "no.nii.gz"])
    (tmp_path / "x.txt").touch()
    with pytest.raises(InputError, match=r"x\.txt: unknown image format.*Cure: convert"):
        read_image([tmp_path / "x.txt"])
    with pytest.raises(InputError, match="is a folder without DICOM files"):
        read_image([tmp_path])
    with pytest.raises(InputError, match="no image file given"):
        read_image([])


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.array([0, 255], np.int32), np.uint8),
        (np.array([0, 256], np.uint16), np.int16),
        (np.array([-1, 2], np.int8), np.int16),
        (np.array([0.0, 2.00001], np.float32), np.uint8),
    ],
)
def test_label_type_fits_the_values(array: np.ndarray, dtype: type, write_nifti: Writer) -> None:
    labels, _ = read_label(write_nifti("x.nii.gz", array.reshape(2, 1, 1)))
    assert labels.dtype == dtype
    np.testing.assert_array_equal(labels.ravel(), np.rint(array))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([0, 0.5], np.float32), "must be integers, found 0.5 in 1 voxels"),
        (np.array([0, np.nan], np.float32), "must be integers, found nan in 1 voxels"),
        (np.array([0, np.inf], np.float32), "must be integers, found inf in 1 voxels"),
        (np.array([0, 40000], np.int32), "from 0 to 40000 exceed the 16-bit range"),
        (np.zeros((2, 2), np.uint8), "must be 3D, but the file is 4D"),
    ],
)
def test_bad_labels_are_refused(array: np.ndarray, message: str, write_nifti: Writer) -> None:
    path = write_nifti("x.nii.gz", array.reshape(2, 1, 1, -1) if array.ndim == 2 else array.reshape(2, 1, 1))
    with pytest.raises(InputError, match=message) as caught:
        read_label(path)
    assert str(path) in str(caught.value)
    assert "Cure: " in str(caught.value)


def test_nothing_is_left_when_writing_fails(
    write_nifti: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, geometry = read_label(write_nifti("in/x.nii.gz", random_labels((4, 5, 6))))
    out = tmp_path / "out"
    out.mkdir()
    (out / "x.nii.gz").write_bytes(b"older result")

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(image_files.nibabel.Nifti1Image, "to_stream", full_disk)
    with pytest.raises(InputError, match="no space"):
        write_label_map(out / "x.nii.gz", labels, geometry)
    assert [p.name for p in out.iterdir()] == ["x.nii.gz"]
    assert (out / "x.nii.gz").read_bytes() == b"older result"


def test_written_file_has_the_same_bytes_each_time(write_nifti: Writer, tmp_path: Path) -> None:
    labels, geometry = read_label(write_nifti("in.nii.gz", random_labels((4, 5, 6))))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_label_map(tmp_path / name, labels, geometry)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes())[344:347] == b"n+1"


def test_writer_refuses_wrong_names_shapes_and_values(write_nifti: Writer, tmp_path: Path) -> None:
    labels, geometry = read_label(write_nifti("in.nii.gz", random_labels((4, 5, 6))))
    with pytest.raises(InputError, match=r"out\.nrrd: results are written as NIfTI.*Cure: "):
        write_label_map(tmp_path / "out.nrrd", labels, geometry)
    with pytest.raises(ValueError, match="does not fit the geometry"):
        write_label_map(tmp_path / "out.nii.gz", labels[1:], geometry)
    with pytest.raises(ValueError, match="labels must lie in"):
        write_label_map(tmp_path / "out.nii.gz", labels.astype(np.int16) - 1, geometry)
