"""Tests of the resolution of pictures."""

from __future__ import annotations

import itk
import nibabel
import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from monai_ext.datasets.picture_resolution import PictureResolution, picture_resolution

PICTURE = Image.fromarray(np.zeros((4, 6), dtype=np.uint8))


def tiff(path, **tags):
    numbers = {"x": 282, "y": 283, "unit": 296, "description": 270, "orientation": 274}
    PICTURE.save(path, tiffinfo={numbers[name]: value for name, value in tags.items()})
    return picture_resolution(path)


def test_tags_of_tiff(tmp_path):
    found = tiff(tmp_path / "a.tif", x=IFDRational(30769, 2), y=IFDRational(20000, 1), unit=3)
    assert found == PictureResolution((30769, 2), (20000, 1), 3)
    np.testing.assert_allclose(found.per_centimetre, (20000, 15384.5))
    inches = tiff(tmp_path / "b.tif", x=300.0, y=300.0, unit=2)
    np.testing.assert_allclose(inches.per_centimetre, (300 / 2.54, 300 / 2.54))


def test_units_of_imagej(tmp_path):
    text = "ImageJ=1.53t\nimages=3\nchannels=3\nunit=micron\nmin=0.0\n"
    found = tiff(tmp_path / "a.tif", x=3.0769, y=3.0769, unit=1, description=text)
    assert found.unit == 1
    assert found.description == "ImageJ=1.53t\nunit=micron\n"  # of the rest, a label map is no picture of
    assert found.x[0] / found.x[1] == pytest.approx(3.0769, abs=1e-6)
    assert found.per_centimetre is None
    assert tiff(tmp_path / "b.tif", x=72.0, y=72.0, unit=2, description="ImageJ=1\nimages=3\n").description == ""


def test_pixel_size_of_ome(tmp_path):
    text = '<?xml version="1.0"?><OME><Pixels PhysicalSizeX="0.325" PhysicalSizeY="0.65" PhysicalSizeXUnit="µm"/></OME>'
    found = tiff(tmp_path / "a.tif", description=text.encode())
    np.testing.assert_allclose(found.per_centimetre, (1e4 / 0.65, 1e4 / 0.325), rtol=1e-6)
    assert found.description == ""


def test_sideways_pictures(tmp_path):
    found = tiff(tmp_path / "a.tif", x=100.0, y=200.0, unit=3, orientation=6)
    assert (found.x, found.y) == ((200, 1), (100, 1))


def test_png_and_jpeg(tmp_path):
    for name in ("a.png", "a.jpg"):
        PICTURE.save(tmp_path / name, dpi=(300, 150))
        np.testing.assert_allclose(picture_resolution(tmp_path / name).per_centimetre, (59.055, 118.11), rtol=1e-4)


def test_spacing_in_millimetres(tmp_path):
    image = itk.image_from_array(np.zeros((4, 6), dtype=np.uint8))
    image.SetSpacing((0.5, 0.25))  # x, y
    itk.imwrite(image, str(tmp_path / "a.mha"))
    np.testing.assert_allclose(picture_resolution(tmp_path / "a.mha").per_centimetre, (40, 20))
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 4, 1)), np.diag([0.5, 0.25, 1, 1])), tmp_path / "a.nii.gz")
    np.testing.assert_allclose(picture_resolution(tmp_path / "a.nii.gz").per_centimetre, (40, 20))


def test_nothing_stated(tmp_path):
    PICTURE.save(tmp_path / "a.png")
    PICTURE.save(tmp_path / "a.tif")
    (tmp_path / "damaged.tif").write_bytes(b"II*\0")
    for name in ("a.png", "a.tif", "damaged.tif", "missing.tif"):
        assert picture_resolution(tmp_path / name) is None
    assert tiff(tmp_path / "zero.tif", x=0.0, y=0.0, unit=2) is None
